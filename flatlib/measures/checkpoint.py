"""A network at one moment of its training, the examples it is measured on, and what its measures share."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatlib.curvature import (
    Eigenvalues,
    EmpiricalFisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    top_eigenvalues,
)
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.spectrum.deflation import STEPS, Deflation, krylov_deflation
from flatlib.curvature.traces.exact import exact_traces
from flatlib.errors import FlatlibError
from flatlib.sharpness.adaptive import loss_around
from flatlib.sharpness.perturbed_loss import PerturbedLoss

Split = Data
T = TypeVar("T")


@dataclass(kw_only=True)
class Checkpoint:
    """A network at one moment of its training, and the examples it is measured on.

    What several measures need is computed once, for as long as weights and settings stay the same: the Hessian with
    its graph, whose derivatives are then compared with differences once, the search for its largest eigenvalue from a
    random start, the space that search has seen, the exact traces, the gradient. None of it depends on which measures
    are taken, or in which order; `measure` drops it at its end.

    Attributes:
        model: The network. Every measure leaves it as it is.
        examples: (inputs, targets) on which curvature is measured, or an iterable of batches.
        loss: A name or a callable, as for `HessianOperator`.
        train: Split on which training loss and accuracy are measured; None if they are not needed.
        test: Split on which test loss and accuracy are measured; None if they are not needed.
        validation: A third split, where a run keeps one to choose settings by.
        after: Returns the network after one more training step; None without training.
        optimizer: Optimizer of the training with its state; None without training.
        batch_norm: Mode of batch norm, as for `HessianOperator`.
        engine: Method of `top_eigenvalues`.
        tolerance: Largest residual of an eigenvalue relative to it.
        seed: Seed of probes and starting vectors.
        batch_size: Batch size of the training, for `batch_sharpness`; None if there is none.
        top_vector: The last top eigenvector, from which the next search along a trajectory starts; a new checkpoint has
            none, so that a final value does not depend on an earlier one.
    """

    model: nn.Module
    examples: Data
    loss: Loss = "cross_entropy"
    train: Split | None = None
    test: Split | None = None
    validation: Split | None = None
    after: Callable[[], nn.Module] | None = None
    optimizer: Optimizer | None = None
    batch_norm: str = "eval"
    engine: str = "lanczos"
    tolerance: float = 1e-3
    seed: int = 0
    batch_size: int | None = None
    top_vector: Tensor | None = None
    _shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _settings: tuple[Any, ...] = field(default=(), init=False, repr=False, compare=False)
    _weights: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def subject(self) -> tuple[nn.Module, Loss, Data]:
        """Model, loss and examples, the first arguments of every measure of curvature or sharpness."""
        return self.model, self.loss, self.examples

    def hessian(self) -> HessianOperator:
        """Return the Hessian of the loss over the measured examples."""
        return HessianOperator(*self.subject, batch_norm=self.batch_norm)

    def gauss_newton(self) -> GaussNewtonOperator:
        """Return the Gauss-Newton matrix of the loss over the measured examples."""
        return GaussNewtonOperator(*self.subject, batch_norm=self.batch_norm)

    @property
    def operator(self) -> HessianOperator:
        """The Hessian, shared: its graph is built once, and its derivatives are compared with differences once."""

        def compared() -> HessianOperator:
            operator = self.hessian()
            with contextlib.suppress(FlatlibError):  # what is wrong is refused again by the measures that use it
                operator.check_derivatives(products=True)
            return operator

        return self._share("operator", compared)

    @property
    def empirical_fisher(self) -> EmpiricalFisherOperator:
        """The empirical Fisher matrix over the measured examples, shared."""
        return self._share(
            "empirical_fisher", lambda: EmpiricalFisherOperator(*self.subject, batch_norm=self.batch_norm)
        )

    @property
    def around(self) -> PerturbedLoss:
        """The loss around the weights, shared with its gradient there."""
        return self._share("around", lambda: PerturbedLoss(self.operator))

    @property
    def normalized(self) -> PerturbedLoss:
        """The loss of the normalized logits around the weights, shared with its gradient there."""
        around = partial(loss_around, *self.subject, normalize_logits=True, batch_norm=self.batch_norm)
        return self._share("normalized", around)

    @property
    def traces(self) -> dict[str, float] | None:
        """The exact traces of all blocks of the Hessian, shared; None where there are none."""
        return self._share("traces", lambda: exact_traces(self.operator))

    @property
    def search(self) -> tuple[Eigenvalues, Deflation]:
        """The search for the largest eigenvalue from a random start, shared, and the space that it has seen."""

        def search() -> tuple[Eigenvalues, Deflation]:
            found = top_eigenvalues(self.operator, start="random", tol=self.tolerance, seed=self.seed, keep_krylov=True)
            return found, krylov_deflation(found)

        return self._share("search", search)

    @property
    def deflation(self) -> Deflation:
        """The space that the search has seen after some more steps, shared."""
        return self._share("deflation", lambda: krylov_deflation(self.search[0], STEPS))

    def forget(self) -> None:
        """Drop all that is shared."""
        self._shared.clear()

    def release(self) -> None:
        """Drop the graphs and the bases of what is shared."""
        for name in ("search", "deflation"):
            self._shared.pop(name, None)
        for name in ("operator", "empirical_fisher"):
            if name in self._shared:
                self._shared[name].release()

    def _share(self, name: str, compute: Callable[[], T]) -> T:
        """Return what is kept under a name; compute it if it is missing, or if weights or settings have changed."""
        if not self._is_unchanged():
            self.forget()
        if name not in self._shared:
            found = compute()
            self._settings, self._weights = self._measured_with(), [tensor.detach().clone() for tensor in self._state()]
            self._shared[name] = found
        return self._shared[name]

    def _is_unchanged(self) -> bool:
        """Return whether settings, parameters and buffers are those of what is kept; by value, as versions can lie."""
        settings, tensors = self._measured_with(), self._state()
        if len(self._settings) != len(settings) or len(self._weights) != len(tensors):
            return False
        alike = all(one is other for one, other in zip(self._settings, settings, strict=True))
        pairs = zip(self._weights, tensors, strict=True)
        return alike and all(kept.device == tensor.device and torch.equal(kept, tensor) for kept, tensor in pairs)

    def _measured_with(self) -> tuple[Any, ...]:
        return *self.subject, self.batch_norm, self.tolerance, self.seed

    def _state(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]
