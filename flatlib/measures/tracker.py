"""Track the curvature of a network while any loop trains it, with any optimizer."""

from collections.abc import Iterable

import pandas as pd
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from flatlib.curvature import adam_preconditioner, preconditioned_eigenvalue, stability_threshold
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data, Examples
from flatlib.errors import require_one_of
from flatlib.losses import inputs_in_a_batch, resolve_loss
from flatlib.measures import REGISTRY, Checkpoint, Numbers, measure
from flatlib.measures.registry import eigenvalue_columns

__all__ = ["Tracker"]


class Tracker:
    """Measure a model during training without affecting it.

    Each search for the top eigenvalue starts from the previous eigenvector plus a random part, which saves products.

    Args:
        model: The network that is being trained.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches; read once and kept.
        optimizer: Adds `stability_threshold`, where it is known, and for Adam and AdamW after their first step
            `preconditioned_lambda_max` (Cohen et al. 2022).
        measures: Names in `flatlib.measures.REGISTRY`.
        batch_norm: Mode of batch norm, as for `HessianOperator`.
        tolerance: Largest residual of an eigenvalue relative to it.
        seed: Seed of probes and random parts.

    Raises:
        FlatlibError: For an unknown measure, and for whatever the measures refuse.

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
        batch_norm: str = "eval",
        tolerance: float = 1e-3,
        seed: int = 0,
    ):
        self.measures = tuple(measures)
        for name in self.measures:
            require_one_of("measures", name, REGISTRY)
        examples = Examples.read(data, inputs_in_a_batch(resolve_loss(loss)))
        self._checkpoint = Checkpoint(
            model=model,
            examples=examples,
            loss=loss,
            train=examples,
            batch_norm=batch_norm,
            tolerance=tolerance,
            seed=seed,
        )
        self._optimizer = optimizer
        self._preconditioned_vector: Tensor | None = None
        self._points: list[Numbers] = []

    def look(self, update: int) -> Numbers:
        """Measure after `update` training steps; return the numbers and keep them for `table`."""
        point: Numbers = {"update": update} | measure(self.measures, self._checkpoint)
        if self._optimizer is not None:
            point["stability_threshold"] = stability_threshold(self._optimizer)
            if isinstance(self._optimizer, Adam | AdamW) and self._optimizer.state:
                point |= self._preconditioned(self._optimizer)
        self._points.append(point)
        return point

    def table(self) -> pd.DataFrame:
        """Return one row for each look, in order; numbers not measured at a look are missing there."""
        return pd.DataFrame(self._points)

    def _preconditioned(self, optimizer: Optimizer) -> Numbers:
        checkpoint, start = self._checkpoint, self._preconditioned_vector
        operator = checkpoint.hessian()
        preconditioner = adam_preconditioner(optimizer, checkpoint.model, operator)
        found = preconditioned_eigenvalue(
            operator, preconditioner, tol=checkpoint.tolerance, start=start, seed=checkpoint.seed
        )
        self._preconditioned_vector = found.vectors[:, 0]
        return eigenvalue_columns("preconditioned_lambda_max", found)
