"""Following the curvature of a network while any loop trains it, with any optimizer."""

from collections.abc import Iterable

import pandas as pd
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from flatlib.config import MEASURES
from flatlib.curvature import HessianOperator, adam_preconditioner, preconditioned_eigenvalue
from flatlib.curvature.operators.empirical_risk import Data, Loss, collect_batches
from flatlib.curvature.spectrum.stability import stability_threshold
from flatlib.errors import require_one_of
from flatlib.measures import Checkpoint, Numbers, measure

__all__ = ["Tracker"]


class Tracker:
    """Measures of a model at the moments when it is asked to look; training goes on as if it had not.

    Each search for the top eigenvalue starts from the last one's eigenvector plus a random part, which saves products.

    Parameters
    ----------
    model: the network that is being trained; it is left as it is.
    loss, data: as for `HessianOperator`; the data are read once and kept.
    optimizer: adds `stability_threshold`, where it is known, and for Adam and AdamW after their first step
        `preconditioned_lambda_max` (Cohen et al. 2022).
    measures: names in `flatlib.config.MEASURES`.
    batch_norm, tolerance, seed: as for `HessianOperator` and `top_eigenvalues`.

    Raises
    ------
    FlatlibError: for an unknown measure, and for whatever the measures refuse.
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
            require_one_of("measures", name, MEASURES)
        x, y, _ = collect_batches(data)
        self._checkpoint = Checkpoint(
            model=model,
            examples=(x, y),
            loss=loss,
            train=(x, y),
            batch_norm=batch_norm,
            tolerance=tolerance,
            seed=seed,
        )
        self._optimizer = optimizer
        self._preconditioned_vector: Tensor | None = None
        self._points: list[Numbers] = []

    def look(self, update: int) -> Numbers:
        """Measure now; `update` is the number of steps taken. The numbers are kept for `table` as well."""
        point: Numbers = {"update": update} | measure(self.measures, self._checkpoint)
        if self._optimizer is not None:
            point["stability_threshold"] = stability_threshold(self._optimizer)
            if isinstance(self._optimizer, Adam | AdamW) and self._optimizer.state:
                point |= self._preconditioned()
        self._points.append(point)
        return point

    def table(self) -> pd.DataFrame:
        """One row for every look, in order; what was not measured at a look is missing there."""
        return pd.DataFrame(self._points)

    def _preconditioned(self) -> Numbers:
        checkpoint = self._checkpoint
        operator: HessianOperator = checkpoint.hessian()
        found = preconditioned_eigenvalue(
            operator,
            adam_preconditioner(self._optimizer, checkpoint.model, operator),
            tol=checkpoint.tolerance,
            start=self._preconditioned_vector,
            seed=checkpoint.seed,
        )
        self._preconditioned_vector = found.vectors[:, 0]
        return {
            "preconditioned_lambda_max": float(found.values[0]),
            "preconditioned_lambda_max_residual": float(found.residuals[0]),
            "preconditioned_lambda_max_products": found.products,
            "preconditioned_lambda_max_converged": found.converged,
        }
