"""The loss along the top eigenvectors of its Hessian, along any directions, and in the plane of any two of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.errors import FlatlibError, NotFinite, require_one_of
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

RIGHT_ANGLE = 1e-5  # largest deviation of U^T U from the identity that counts as rounding in float32
UNITS = ("weights", "direction")  # of steps: lengths in the space of the weights, or multiples of a direction as passed


@dataclass(frozen=True)
class Lines:
    r"""The loss along unit eigenvectors: $L(w + t v_j)$.

    Attributes:
        steps: (points,) float64, t in the units of the weights, symmetric about 0, which is among them.
        losses: (k, points) float64, NaN where the loss is not finite.
        eigenvalues: Eigenvalues of $v_j$, with residuals, vectors, products and whether they converged.
        slopes: (k,) $\langle \nabla L(w), v_j \rangle$.
    """

    steps: np.ndarray
    losses: np.ndarray
    eigenvalues: Eigenvalues
    slopes: np.ndarray

    def table(self) -> pd.DataFrame:
        r"""Return one row per direction and step: direction (1 is the top), eigenvalue, step, loss and ``quadratic``.

        The last is $L(w) + t \langle g, v \rangle + \frac12 \lambda t^2$, the loss without its higher terms.
        """
        lines = []
        for j, curvature in enumerate(self.eigenvalues.values.tolist()):
            named = {"direction": j + 1, "eigenvalue": curvature}
            lines.append(_line(named, self.steps, self.losses[j], self.slopes[j], curvature))
        return pd.concat(lines, ignore_index=True)


def loss_along_eigenvectors(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    k: int = 1,
    radius: float | None = None,
    points: int = 41,
    tol: float = 1e-3,
    seed: int = 0,
    **options: Unpack[Options],
) -> Lines:
    r"""Evaluate the loss along each of the k top eigenvectors, $t \in [-r, r]$.

    Of the two signs of an eigenvector it takes the one with $\langle \nabla L, v \rangle \ge 0$. Where the loss is not
    finite, as where it overflows far from the minimum, it is NaN; ``dtype=torch.float64`` reaches further.

    >>> _ = torch.manual_seed(0)
    >>> table = loss_along_eigenvectors(nn.Linear(2, 1), "mse", (torch.eye(2), torch.ones(2, 1)), k=2).table()
    >>> round(float((table["loss"] - table["quadratic"]).abs().max()), 4)  # this loss is quadratic
    0.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        k: Number of eigenvectors.
        radius: Radius r, in the units of the weights; by default $\sqrt{2 L / \lambda_1}$, where a minimum's loss has
            doubled if it is quadratic along the top eigenvector.
        points: Steps, an odd number so that the middle one is w.
        tol: Largest residual relative to the eigenvalue, as for `top_eigenvalues`.
        seed: Seed of the search's starting vector.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        FlatlibError: If points are not odd or below 3, the radius is not positive, or missing where the loss or its
            largest eigenvalue is not positive; and whatever `HessianOperator` and `top_eigenvalues` refuse.
        NotFinite: If the loss or its gradient is not finite at the weights themselves.
    """
    _steps(1.0 if radius is None else radius, points)  # refused before the search
    operator = HessianOperator(model, loss, data, **options)
    found = top_eigenvalues(operator, k, tol=tol, seed=seed)
    around = PerturbedLoss(operator)
    centre, gradient = around.loss_and_gradient()
    if radius is None:
        top = float(found.values[0])
        if not (centre > 0 and top > 0):
            raise FlatlibError(f"pass a radius: the loss {centre:g} and lambda_max {top:g} do not give one")
        radius = math.sqrt(2.0) * math.sqrt(centre / top)  # twice the loss could overflow
    steps = _steps(radius, points)
    slopes = gradient.double() @ found.vectors.double()
    found = replace(found, vectors=found.vectors * torch.where(slopes < 0, -1.0, 1.0).to(found.vectors))
    losses = [[around.loss_where_finite(t * v) for t in steps.tolist()] for v in found.vectors.T]
    return Lines(steps, np.array(losses), found, slopes.abs().cpu().numpy())


def loss_along(
    model: nn.Module,
    loss: Loss,
    data: Data,
    directions: Mapping[str, Tensor],
    *,
    radius: float,
    points: int = 41,
    unit: str = "weights",
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""Evaluate $L(w + t v)$ for $t \in [-r, r]$ along each direction, by default made a unit vector v.

    Where the loss is not finite, as where it overflows far from the minimum, it is NaN.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> table = loss_along(model, "mse", (torch.eye(2), torch.ones(2, 1)), {"both": torch.ones(2)}, radius=1, points=3)
    >>> table["curvature"].round(6).tolist()  # the Hessian is the unit matrix
    [1.0, 1.0, 1.0]

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        directions: Vectors (n,), flat in the order of the operator's parameters, by the name they are drawn with.
        radius: Radius r.
        points: Steps, an odd number so that the middle one is w.
        unit: "weights" makes every direction a unit vector: steps are distances between weights. "direction" takes it
            as it is, for `filter_normalised_directions`: a step of 1 is $w + v$.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Returns:
        One row per direction and step: direction, curvature $v^\top H v$ (exact up to rounding), step, loss (NaN where
        it is not finite), and ``quadratic`` $= L(w) + t \langle g, v \rangle + \frac12 t^2 v^\top H v$.

    Raises:
        FlatlibError: If points are not odd or below 3, the radius is not positive, a direction is zero, not finite or
            of another length; and whatever `HessianOperator` refuses.
        NotFinite: If the loss, its gradient or a curvature is not finite at the weights themselves.
    """
    steps = _steps(radius, points)
    require_one_of("unit", unit, UNITS)
    operator = HessianOperator(model, loss, data, **options)
    around = PerturbedLoss(operator)
    gradient = around.loss_and_gradient()[1]
    tables = []
    for name, direction in directions.items():
        v = _like_weights(direction, around.weights, name, unit_norm=unit == "weights")
        curvature, slope = (float(v.double() @ u.double()) for u in (operator.matvec(v), gradient))
        if not math.isfinite(curvature):
            raise NotFinite(f"{name}: the curvature along it is {curvature}")
        losses = np.array([around.loss_where_finite(t * v) for t in steps.tolist()])
        tables.append(_line({"direction": name, "curvature": curvature}, steps, losses, slope, curvature))
    return pd.concat(tables, ignore_index=True)


def loss_in_plane(
    model: nn.Module,
    loss: Loss,
    data: Data,
    basis: Tensor,
    *,
    radius: float,
    points: int = 21,
    unit: str = "weights",
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""Evaluate $L(w + s u_1 + t u_2)$ on a square grid, $s, t \in [-r, r]$: points^2 evaluations of the loss.

    Where the loss is not finite, as where it overflows far from the minimum, it is NaN.

    >>> data = torch.eye(3), torch.ones(3, 1)
    >>> loss_in_plane(nn.Linear(3, 1, bias=False), "mse", data, torch.eye(3)[:, :2], radius=1.0, points=3).shape
    (9, 3)

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        basis: Columns $u_1, u_2$, (n, 2), flat in the order of the operator's parameters, such as
            ``top_eigenvalues(operator, 2).vectors``.
        radius: Radius r.
        points: Steps along each side, an odd number so that the middle one is w.
        unit: "weights" requires orthonormal columns: steps are distances between weights, and a displacement d in the
            plane has the coordinates $U^\top d$. "direction" takes any two, for `filter_normalised_directions`.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Returns:
        One row per point: step_1 (along $u_1$), step_2 and loss (NaN where it is not finite).

    Raises:
        FlatlibError: If unit="weights" and the columns are not orthonormal, and for whatever `loss_along` refuses.
        NotFinite: If the loss is not finite at the weights themselves.
    """
    steps = _steps(radius, points).tolist()
    require_one_of("unit", unit, UNITS)
    around = PerturbedLoss(HessianOperator(model, loss, data, **options))
    if basis.ndim != 2 or basis.shape[1] != 2:
        raise FlatlibError(f"a plane needs two directions (n, 2), got the shape {tuple(basis.shape)}")
    first, second = (_like_weights(column, around.weights, "the plane's basis") for column in basis.T)
    if unit == "weights":
        _require_orthonormal(first, second)
    around.loss()  # the middle must be finite, wherever else the loss is not
    grid = [(s, t, around.loss_where_finite(s * first + t * second)) for s in steps for t in steps]
    return pd.DataFrame(grid, columns=["step_1", "step_2", "loss"])


def _line(named: dict, steps: np.ndarray, losses: np.ndarray, slope: float, curvature: float) -> pd.DataFrame:
    """Return the rows of one direction, with the parabola of its slope and curvature through the middle."""
    with np.errstate(over="ignore", invalid="ignore"):  # the parabola may overflow where the loss does
        quadratic = losses[len(steps) // 2] + slope * steps + 0.5 * curvature * steps**2
    return pd.DataFrame(named | {"step": steps, "loss": losses, "quadratic": quadratic})


def _steps(radius: float, points: int) -> np.ndarray:
    """Return the steps from -r to r, whose middle is exactly zero."""
    require_positive(radius=radius)
    if points < 3 or points % 2 == 0:
        raise FlatlibError(f"points={points} must be odd and at least 3, so that the middle one is the model itself")
    half = points // 2
    return np.arange(-half, half + 1) / half * radius


def _like_weights(direction: Tensor, weights: Tensor, name: str, *, unit_norm: bool = False) -> Tensor:
    """Return the direction, or the unit vector along it, in the weights' dtype and on their device."""
    if direction.shape != weights.shape:
        raise FlatlibError(f"{name}: a direction of {len(weights)} numbers is needed, got {tuple(direction.shape)}")
    v = direction.detach().to(weights.device, torch.float64)
    if not (torch.isfinite(v).all() and v.any()):
        raise FlatlibError(f"{name}: this direction is zero or not finite")
    if unit_norm:
        v = torch.nn.functional.normalize(v / v.abs().max(), dim=0)  # squares of huge or tiny entries are not finite
    return v.to(weights)


def _require_orthonormal(first: Tensor, second: Tensor) -> None:
    gram = torch.stack([first @ first - 1, second @ second - 1, first @ second])
    if not gram.abs().max() <= RIGHT_ANGLE:
        raise FlatlibError(
            "the plane's two directions must be unit vectors at a right angle (torch.linalg.qr); "
            'unit="direction" takes them as they are'
        )
