"""The loss along the top eigenvectors of its Hessian, and in the plane of two of them."""

import math
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.errors import FlatlibError
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss


@dataclass(frozen=True)
class Lines:
    r"""The loss along unit vectors: $L(w + t v_j)$.

    Attributes
    ----------
    steps: (points,) float64, t in the units of the weights, symmetric about 0, which is among them.
    losses: (k, points) float64.
    eigenvalues: of v_j, with residuals, vectors, products and whether they converged.
    slopes: (k,) $\langle \nabla L(w), v_j \rangle$.
    """

    steps: np.ndarray
    losses: np.ndarray
    eigenvalues: Eigenvalues
    slopes: np.ndarray

    def table(self) -> pd.DataFrame:
        r"""One row per direction and step: direction (1 is the top), eigenvalue, step, loss, and `quadratic`
        $= L(w) + t \langle g, v \rangle + \frac12 \lambda t^2$, what the loss would be without higher terms."""
        curvatures = self.eigenvalues.values.cpu().numpy()
        centre = self.losses[:, [len(self.steps) // 2]]
        quadratic = centre + self.slopes[:, None] * self.steps + 0.5 * curvatures[:, None] * self.steps**2
        k, points = self.losses.shape
        return pd.DataFrame(
            {
                "direction": np.repeat(np.arange(1, k + 1), points),
                "eigenvalue": np.repeat(curvatures, points),
                "step": np.tile(self.steps, k),
                "loss": self.losses.ravel(),
                "quadratic": quadratic.ravel(),
            }
        )


@dataclass(frozen=True)
class Plane:
    r"""The loss in the plane of the two top eigenvectors: $L(w + s v_1 + t v_2)$.

    Attributes
    ----------
    steps: (points,) float64, for s and t alike, symmetric about 0, which is among them.
    losses: (points, points) float64; the first index is that of s.
    eigenvalues: of v_1 and v_2.
    """

    steps: np.ndarray
    losses: np.ndarray
    eigenvalues: Eigenvalues

    def table(self) -> pd.DataFrame:
        """One row per point: step_1 (along v_1), step_2 and loss."""
        first, second = np.meshgrid(self.steps, self.steps, indexing="ij")
        return pd.DataFrame({"step_1": first.ravel(), "step_2": second.ravel(), "loss": self.losses.ravel()})


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
    r"""The loss along each of the k top eigenvectors, $t \in [-r, r]$.

    The sign of an eigenvector is arbitrary: here $\langle \nabla L, v \rangle \ge 0$, so that the loss does not fall
    towards positive t to first order.

    Parameters
    ----------
    model, loss, data: as for `HessianOperator`.
    k: how many directions.
    radius: r, in the units of the weights; by default $\sqrt{2 L / \lambda_1}$, where a minimum's loss has doubled if
        it is quadratic along the top eigenvector.
    points: odd, so that the middle one is w.
    tol, seed: of `top_eigenvalues`.
    options: batch_norm, chunk_size, parameters and dtype of `HessianOperator`.

    Raises
    ------
    FlatlibError: for points not odd or below 3, a radius not positive, or none where the loss or its largest
        eigenvalue is not positive, and what `HessianOperator` and `top_eigenvalues` refuse.
    NotFinite: where the loss along a line is not finite.
    """
    operator, found = _top(model, loss, data, k, points, tol, seed, options)
    around = PerturbedLoss(operator)
    centre, gradient = around.loss_and_gradient()
    steps = _steps(radius, points, centre, found)
    slopes = gradient @ found.vectors
    found = _with_signs(found, slopes)
    losses = [[around.loss(float(t) * v) for t in steps] for v in found.vectors.T]
    return Lines(steps, np.array(losses), found, slopes.abs().double().cpu().numpy())


def loss_in_eigenplane(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    radius: float | None = None,
    points: int = 21,
    tol: float = 1e-3,
    seed: int = 0,
    **options: Unpack[Options],
) -> Plane:
    """The loss on a square grid in the plane of the two top eigenvectors: points^2 evaluations of the loss.

    Parameters
    ----------
    model, loss, data, radius, points, tol, seed, options: as for `loss_along_eigenvectors`, and so are the signs.

    Raises
    ------
    FlatlibError: for what `loss_along_eigenvectors` refuses.
    """
    operator, found = _top(model, loss, data, 2, points, tol, seed, options)
    around = PerturbedLoss(operator)
    centre, gradient = around.loss_and_gradient()
    steps = _steps(radius, points, centre, found)
    found = _with_signs(found, gradient @ found.vectors)
    first, second = found.vectors.T
    losses = [[around.loss(float(s) * first + float(t) * second) for t in steps] for s in steps]
    return Plane(steps, np.array(losses), found)


def _top(
    model: nn.Module, loss: Loss, data: Data, k: int, points: int, tol: float, seed: int, options: Options
) -> tuple[HessianOperator, Eigenvalues]:
    if points < 3 or points % 2 == 0:
        raise FlatlibError(f"points={points} must be odd and at least 3, so that the middle one is the model itself")
    operator = HessianOperator(model, loss, data, **options)
    return operator, top_eigenvalues(operator, k, tol=tol, seed=seed)


def _steps(radius: float | None, points: int, centre: float, found: Eigenvalues) -> np.ndarray:
    if radius is None:
        top = float(found.values[0])
        if not (centre > 0 and top > 0):
            raise FlatlibError(f"pass a radius: the loss {centre:g} and lambda_max {top:g} do not give one")
        radius = math.sqrt(2 * centre / top)
    if not 0 < radius < math.inf:
        raise FlatlibError(f"radius={radius} must be a positive number")
    return np.linspace(-radius, radius, points)


def _with_signs(found: Eigenvalues, slopes: Tensor) -> Eigenvalues:
    signs = torch.where(slopes < 0, -1.0, 1.0).to(found.vectors)
    return Eigenvalues(found.values, found.residuals, found.vectors * signs, found.products, found.converged)
