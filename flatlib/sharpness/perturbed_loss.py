"""The loss around the weights of a model, for every measure that evaluates it at perturbed weights."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError, NotFinite


class BlockOptions(TypedDict, total=False):
    """Options of `HessianOperator` that every measure passes on, with the same names and defaults."""

    chunk_size: int | None
    parameters: str | Sequence[str] | None
    dtype: torch.dtype | None


class Options(BlockOptions, total=False):
    """Options of `HessianOperator` that a measure without a batch-norm mode of its own passes on."""

    batch_norm: str


class PerturbedLoss:
    r"""$\epsilon \mapsto L(w + \epsilon)$ and its gradient, for flat displacements of an operator's parameters.

    The loss is that of the operator: its copy of the model, which stays as it is, its examples, chunks and batch norm.
    Sums over chunks are kept in float64, but each loss carries the rounding of the model's dtype: differences below
    $10^{-6} L$ need ``dtype=torch.float64``.

    Attributes:
        weights: Weights $w$ of the operator when it was passed, shape (n,), in its dtype and on its device.
    """

    def __init__(self, operator: HessianOperator):
        self._operator = operator
        self._shapes = [p.shape for p in operator.parameters.values()]
        self.weights = torch.cat([p.detach().flatten() for p in operator.parameters.values()])

    @torch.inference_mode(False)
    def loss(self, displacement: Tensor | float = 0.0) -> float:
        r"""Return $L(w + \epsilon)$ in the units of the loss, by default at w; `NotFinite` is raised if it is not."""
        displaced = self.weights + displacement
        with self._operator.measuring():
            return sum(share * float(value) for share, value in self._values(displaced, without_gradients))

    def loss_where_finite(self, displacement: Tensor) -> float:
        r"""Return $L(w + \epsilon)$, or NaN if it is not finite, for tables in which one such point is not the end."""
        try:
            return self.loss(displacement)
        except NotFinite:
            return math.nan

    @torch.inference_mode(False)
    def loss_and_gradient(self, displacement: Tensor | float = 0.0) -> tuple[float, Tensor]:
        r"""Return $L(w + \epsilon)$ and $\nabla L(w + \epsilon)$, (n,); `NotFinite` is raised if one is not."""
        displaced = (self.weights + displacement).requires_grad_()
        loss, gradient = 0.0, torch.zeros_like(self.weights)
        with self._operator.measuring():
            for share, value in self._values(displaced):
                loss += share * float(value.detach())
                if value.requires_grad:
                    gradient += share * torch.autograd.grad(value, displaced, materialize_grads=True)[0]
        if not torch.isfinite(gradient).all():
            raise NotFinite("the gradient is not finite: the loss has no direction of steepest ascent")
        return loss, gradient

    @functools.cached_property
    def at_weights(self) -> tuple[float, Tensor]:
        r"""Loss and gradient at w, where every ascent starts; computed once."""
        return self.loss_and_gradient()

    def _values(
        self, displaced: Tensor, compute: Callable[[Callable[[], Tensor]], Tensor] = lambda run: run()
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each chunk's share of the examples and its loss, differentiable in the displaced weights."""
        operator = self._operator
        pieces = displaced.split([shape.numel() for shape in self._shapes])
        own = {n: p.view(s) for n, p, s in zip(operator.parameters, pieces, self._shapes, strict=True)}
        for chunk in operator.chunks():
            with operator.frozen.displaced(own):
                yield chunk.share, compute(functools.partial(operator.chunk_loss, chunk))


def require_positive(**numbers: float) -> None:
    """Raise a `FlatlibError` that names the first number which is not finite and above zero."""
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise FlatlibError(f"{name}={number} must be a positive number")
