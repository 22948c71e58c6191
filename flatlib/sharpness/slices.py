"""The loss along any directions, and in the plane of any two of them."""

from collections.abc import Mapping
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

RIGHT_ANGLE = 1e-5
"""Deviation of $U^\\top U$ from the identity that is rounding, of vectors in float32."""


def loss_along(
    model: nn.Module,
    loss: Loss,
    data: Data,
    directions: Mapping[str, Tensor],
    *,
    radius: float,
    points: int = 41,
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""$L(w + t v)$ for $t \in [-r, r]$ along each direction, made a unit vector v.

    Parameters
    ----------
    model, loss, data: as for `HessianOperator`.
    directions: (n,) each, flat in the order of the operator's parameters, by the name they are drawn with.
    radius: r, in the units of the weights.
    points: odd, so that the middle one is w.
    options: batch_norm, chunk_size, parameters and dtype of `HessianOperator`.

    Returns
    -------
    One row per direction and step: direction, curvature $v^\top H v$ (exact up to rounding), step, loss, and
    `quadratic` $= L(w) + t \langle g, v \rangle + \frac12 t^2 v^\top H v$.

    Raises
    ------
    FlatlibError: for points not odd or below 3, a radius not positive, a direction that is zero or of another length,
        and what `HessianOperator` refuses.
    """
    steps = _steps(radius, points)
    operator = HessianOperator(model, loss, data, **options)
    around = PerturbedLoss(operator)
    centre, gradient = around.loss_and_gradient()
    tables = []
    for name, direction in directions.items():
        v = _of_weights(direction, around.weights, name)
        v = v / v.norm()
        curvature, slope = float(v @ operator.matvec(v)), float(v @ gradient)
        losses = [around.loss(float(t) * v) for t in steps]
        quadratic = centre + slope * steps + 0.5 * curvature * steps**2
        line = {"direction": name, "curvature": curvature, "step": steps, "loss": losses, "quadratic": quadratic}
        tables.append(pd.DataFrame(line))
    return pd.concat(tables, ignore_index=True)


def loss_in_plane(
    model: nn.Module,
    loss: Loss,
    data: Data,
    basis: Tensor,
    *,
    radius: float,
    points: int = 21,
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""$L(w + s u_1 + t u_2)$ on a square grid, $s, t \in [-r, r]$: points^2 evaluations of the loss.

    Parameters
    ----------
    model, loss, data: as for `HessianOperator`.
    basis: (n, 2) orthonormal columns $u_1, u_2$, flat in the order of the operator's parameters; the coordinates of a
        displacement d in the plane are then $U^\top d$.
    radius, points, options: those of `loss_along`.

    Returns
    -------
    One row per point: step_1 (along $u_1$), step_2 and loss.

    Raises
    ------
    FlatlibError: for columns that are not orthonormal, and what `loss_along` refuses.
    """
    steps = _steps(radius, points)
    around = PerturbedLoss(HessianOperator(model, loss, data, **options))
    if basis.ndim != 2 or basis.shape[1] != 2:
        raise FlatlibError(f"a plane needs two directions (n, 2), got the shape {tuple(basis.shape)}")
    first, second = (_of_weights(column, around.weights, "the plane's basis") for column in basis.T)
    gram = torch.stack([first @ first - 1, second @ second - 1, first @ second])
    if not gram.abs().max() <= RIGHT_ANGLE:
        raise FlatlibError("the plane's two directions must be unit vectors at a right angle (torch.linalg.qr)")
    grid = [(s, t) for s in steps.tolist() for t in steps.tolist()]
    losses = [around.loss(s * first + t * second) for s, t in grid]
    return pd.DataFrame(grid, columns=["step_1", "step_2"]).assign(loss=losses)


def _steps(radius: float, points: int) -> np.ndarray:
    require_positive(radius=radius)
    if points < 3 or points % 2 == 0:
        raise FlatlibError(f"points={points} must be odd and at least 3, so that the middle one is the model itself")
    return np.linspace(-radius, radius, points)


def _of_weights(direction: Tensor, weights: Tensor, name: str) -> Tensor:
    """The direction in the weights' dtype and on their device."""
    if direction.shape != weights.shape or not direction.any():
        found = "zero" if direction.shape == weights.shape else f"of shape {tuple(direction.shape)}"
        raise FlatlibError(f"{name}: a direction of {len(weights)} numbers is needed, this one is {found}")
    return direction.detach().to(weights)
