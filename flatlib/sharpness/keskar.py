"""The sharpness of Keskar et al. 2017: the largest relative rise of the loss in a small box."""

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

MOST_CORNERS = 20  # corners climbed before L-BFGS-B starts; tuned
RISING = 1e-3  # the climb goes on while the rise grows by this part; tuned


@dataclass(frozen=True)
class BoxSharpness:
    r"""Rise of the loss at a point of the box: a lower bound of the largest one.

    Attributes:
        value: $100\,(L(w + A y) - L(w)) / (1 + L(w))$, in percent.
        loss: $L(w)$.
        perturbed_loss: $L(w + A y)$.
        perturbation: $A y$, (n,).
        evaluations: Number of losses with gradients computed.
        converged: Whether L-BFGS-B stopped by itself; False if ``iterations`` stopped it.
    """

    value: float
    loss: float
    perturbed_loss: float
    perturbation: Tensor
    evaluations: int
    converged: bool


def keskar_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    epsilon: float = 1e-3,
    dimension: int | None = None,
    iterations: int = 10,
    seed: int = 0,
    **options: Unpack[Options],
) -> BoxSharpness:
    r"""Compute the largest rise found in a small box around the weights, in percent.

    $\phi = 100\,(m - L(w)) / (1 + L(w))$ with $m = \max_{y \in C_\epsilon} L(w + A y)$ over the box $C_\epsilon$ of all
    $y$ with $|y_i| \le \epsilon\,(|(A^+ w)_i| + 1)$.

    Keskar et al. 2017, "On large-batch training", metric 2.1. $A$ is the identity, or n x `dimension` standard normal
    numbers with $A^+$ its pseudo-inverse. The maximisation is theirs, L-BFGS-B (scipy's) stopped after 10 iterations,
    but it starts at a corner of the box: from the signs of the gradient at w to those at that corner, and so on while
    the loss rises. Of a loss that is convex along the way the maximum is at a corner, and on small trained nets corners
    alone reached 1.1 to 7.5 times what L-BFGS-B found in 10 iterations from the first of them.

    >>> _ = torch.manual_seed(0)
    >>> found = keskar_sharpness(nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.tensor([0, 1])))
    >>> round(found.value - 100 * (found.perturbed_loss - found.loss) / (1 + found.loss), 6)
    0.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        epsilon: Half the side of the box, in units of $|w| + 1$; Keskar et al. use 1e-3 and 5e-4.
        dimension: Dimension of the random subspace (n x dimension numbers), 100 in their paper; None is the full space.
        iterations: Most iterations of L-BFGS-B, 10 in their paper.
        seed: Seed of A, and of the corner's signs where the gradient is exactly zero.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        FlatlibError: If an option is out of range, L(w) is at or below -1, or `HessianOperator` refuses.
    """
    require_positive(epsilon=epsilon, iterations=iterations)
    around = PerturbedLoss(HessianOperator(model, loss, data, **options))
    if dimension is not None and not 1 <= dimension <= len(around.weights):
        raise FlatlibError(f"dimension={dimension} is not between 1 and the {len(around.weights)} weights")
    base, gradient = around.loss_and_gradient()
    if base <= -1:
        raise FlatlibError(f"the loss is {base:g}: the sharpness is relative to 1 + loss, which must be positive")
    generator = torch.Generator().manual_seed(seed)
    basis = None
    if dimension is not None:
        basis = torch.randn(len(around.weights), dimension, generator=generator, dtype=torch.float64).to(around.weights)
    box = _Box(around, epsilon, basis, base)
    noise = 2 * torch.rand(len(box.half), generator=generator, dtype=torch.float64).numpy() - 1
    start, scale = box.climb_corners(_signs(box.slope(gradient), noise))
    bounds, limits = [(-1.0, 1.0)] * len(start), {"maxiter": iterations, "ftol": 1e-9, "gtol": 1e-9}
    found = scipy.optimize.minimize(
        box.negative_rise, start, (scale,), jac=True, method="L-BFGS-B", bounds=bounds, options=limits
    )
    value = 100 * (box.best_loss - base) / (1 + base)
    return BoxSharpness(value, base, box.best_loss, box.best, box.evaluations, bool(found.success))


class _Box:
    """The box in variables z of [-1, 1], and the best point evaluated in it, initially the origin."""

    def __init__(self, around: PerturbedLoss, epsilon: float, basis: Tensor | None, base: float):
        self._around, self._basis, self._base = around, basis, base
        coordinates = around.weights if basis is None else torch.linalg.lstsq(basis, around.weights[:, None])[0][:, 0]
        self.half = epsilon * (coordinates.abs() + 1)
        self.best, self.best_loss, self.evaluations = torch.zeros_like(around.weights), base, 1

    def negative_rise(self, z: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
        y = self.half * torch.as_tensor(z).to(self.half)
        displacement = y if self._basis is None else self._basis @ y
        loss, gradient = self._around.loss_and_gradient(displacement)
        self.evaluations += 1
        if loss > self.best_loss:
            self.best, self.best_loss = displacement, loss
        return (self._base - loss) / scale, -self.slope(gradient) / scale

    def climb_corners(self, corner: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the best of a sequence of corners, each at the signs of the last slope, and its slope's 1-norm."""
        best, scale, least = corner, 1.0, np.inf
        for _ in range(MOST_CORNERS):
            value, slope = self.negative_rise(corner, 1.0)
            if least < np.inf and value >= least - RISING * abs(least):
                break
            best, least, scale = corner, value, float(np.abs(slope).sum()) or 1.0
            corner = _signs(-slope, corner)
        return best, scale

    def slope(self, gradient: Tensor) -> np.ndarray:
        """Return the gradient in z of the loss with this gradient in the weights."""
        inward = gradient if self._basis is None else self._basis.T @ gradient
        return (self.half * inward).double().cpu().numpy()


def _signs(slope: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the corner towards which the slope points; where it is zero, the signs of the other vector."""
    return np.sign(np.where(slope == 0, otherwise, slope))
