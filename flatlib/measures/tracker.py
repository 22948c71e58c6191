"""Track the curvature of a network while any loop trains it, with any optimizer."""

from collections.abc import Iterable

import pandas as pd
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from flatlib.curvature import (
    HessianOperator,
    PreconditionedOperator,
    adam_preconditioner,
    eigenvalues_above,
    preconditioned_eigenvalue,
    stability_threshold,
)
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data, Examples
from flatlib.errors import FlatlibError, require_one_of
from flatlib.losses import inputs_in_a_batch, resolve_loss
from flatlib.measures import REGISTRY, Checkpoint, Numbers, measure
from flatlib.measures.curvature import eigenvalue_columns

__all__ = ["Tracker"]


class Tracker:
    """Measure a model during training without affecting it.

    Each search for the top eigenvalue starts from the previous eigenvector plus a random part, which saves products. It
    certifies an eigenvalue, not that it is the largest (see `top_eigenvalues`): along the training of an MLP and a
    small CNN, ``certify="end"`` found the same one for 1.7 to 2 times the products.

    Args:
        model: The network that is being trained.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches; read once and kept.
        optimizer: Adds `stability_threshold`, where it is known, and for Adam and AdamW after their first step
            `preconditioned_lambda_max` (Cohen et al. 2022).
        measures: Names in `flatlib.measures.REGISTRY`.
        above: Adds all eigenvalues of the Hessian above this number, or above `stability_threshold` with "stability",
            where Adam and AdamW take the preconditioned Hessian: their number `eigenvalues_above`, whether none is
            missing, `eigenvalues_above_complete`, and `eigenvalue_above_00` and so on, with their residuals.
        batch_norm: Mode of batch norm, as for `HessianOperator`.
        batch_size: Batch size of the training, for the measure `batch_sharpness`.
        tolerance: Largest residual of an eigenvalue relative to it.
        seed: Seed of probes and random parts.

    Raises:
        FlatlibError: For an unknown measure, "stability" without an optimizer, and whatever the measures refuse.

    >>> import torch
    >>> model = nn.Linear(2, 2)
    >>> tracker = Tracker(model, "cross_entropy", (torch.eye(2), torch.tensor([0, 1])))
    >>> sorted(tracker.look(update=0))[:2]
    ['lambda_max', 'lambda_max_converged']
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        optimizer: Optimizer | None = None,
        measures: Iterable[str] = ("lambda_max",),
        above: float | str | None = None,
        batch_norm: str = "eval",
        batch_size: int | None = None,
        tolerance: float = 1e-3,
        seed: int = 0,
    ):
        self.measures = tuple(measures)
        for name in self.measures:
            require_one_of("measures", name, REGISTRY)
        if isinstance(above, str):
            require_one_of("above", above, ("stability",))
            if optimizer is None:
                raise FlatlibError('above="stability" needs the optimizer')
        examples = Examples.read(data, inputs_in_a_batch(resolve_loss(loss)))
        self._checkpoint = Checkpoint(
            model=model,
            examples=examples,
            loss=loss,
            train=examples,
            optimizer=optimizer,
            batch_norm=batch_norm,
            batch_size=batch_size,
            tolerance=tolerance,
            seed=seed,
        )
        self._optimizer, self._above = optimizer, above
        self._preconditioned_vector: Tensor | None = None
        self._points: list[Numbers] = []

    def look(self, update: int) -> Numbers:
        """Measure after `update` training steps; return the numbers and keep them for `table`."""
        point: Numbers = {"update": update} | measure(self.measures, self._checkpoint)
        preconditioner = None
        if self._optimizer is not None:
            point["stability_threshold"] = stability_threshold(self._optimizer)
            if isinstance(self._optimizer, Adam | AdamW) and self._optimizer.state:
                operator = self._checkpoint.hessian()
                preconditioner = adam_preconditioner(self._optimizer, self._checkpoint.model, operator)
                point |= self._preconditioned(operator, preconditioner)
        if self._above is not None:
            point |= self._all_above(point.get("stability_threshold"), preconditioner)
        self._points.append(point)
        return point

    def table(self) -> pd.DataFrame:
        """Return one row for each look, in order; numbers not measured at a look are missing there."""
        return pd.DataFrame(self._points)

    def _preconditioned(self, operator: HessianOperator, preconditioner: Tensor) -> Numbers:
        checkpoint, start = self._checkpoint, self._preconditioned_vector
        found = preconditioned_eigenvalue(
            operator, preconditioner, tol=checkpoint.tolerance, start=start, seed=checkpoint.seed
        )
        self._preconditioned_vector = found.vectors[:, 0]
        return eigenvalue_columns("preconditioned_lambda_max", found)

    def _all_above(self, stability: float | None, preconditioner: Tensor | None) -> Numbers:
        """Return all eigenvalues above the requested threshold; None for their number where there is no threshold."""
        hessian, threshold = self._checkpoint.hessian(), self._above
        operator: HessianOperator | PreconditionedOperator = hessian
        if threshold == "stability":
            if stability is None or (isinstance(self._optimizer, Adam | AdamW) and preconditioner is None):
                return {"eigenvalues_above": None}
            threshold = stability
            operator = hessian if preconditioner is None else PreconditionedOperator(hessian, preconditioner)
        found = eigenvalues_above(
            operator, float(threshold or 0), tol=self._checkpoint.tolerance, seed=self._checkpoint.seed
        )
        numbers: Numbers = {
            "eigenvalues_above": found.count,
            "eigenvalues_above_complete": found.complete,
            "eigenvalues_above_products": found.products,
        }
        for i, (value, residual) in enumerate(zip(found.values.tolist(), found.residuals.tolist(), strict=True)):
            numbers |= {f"eigenvalue_above_{i:02}": value, f"eigenvalue_above_{i:02}_residual": residual}
        return numbers
