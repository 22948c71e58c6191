"""The rise of the loss within a ball, found by ascent, and at the one step of SAM (Foret et al. 2021)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import NotDefined
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

STATIONARY = 1 - 1e-6  # cosine between a perturbation and the next one at which the ascent stops; tuned


@dataclass(frozen=True)
class LossIncrease:
    r"""Rise of the loss at a point of a ball: a certified lower bound of the largest rise in it.

    Attributes:
        value: $L(w + \epsilon) - L(w)$, in the units of the loss.
        loss: $L(w)$.
        perturbation: $\epsilon$, (n,), flat in the order of the operator's parameters.
        alignment: Product of $\epsilon$ and the gradient at $w + \epsilon$ over the largest one in the ball: for a
            Euclidean ball the cosine of their angle, in the coordinates in which it is round. At a maximum on the
            surface it is 1; nothing bounds the maximum from above.
        evaluations: Number of gradients computed.
    """

    value: float
    loss: float
    perturbation: Tensor
    alignment: float
    evaluations: int


def sam_sharpness(
    model: nn.Module, loss: Loss, data: Data, *, rho: float = 0.05, **options: Unpack[Options]
) -> LossIncrease:
    r"""Compute the rise at SAM's one step: $L(w + \rho\, g / \|g\|_2) - L(w)$ with $g = \nabla L(w)$.

    The perturbation maximises the loss to first order over $\|\epsilon\|_2 \le \rho$ (Foret et al. 2021,
    "Sharpness-aware minimization", section 2), over all examples at once (their n-sharpness, not a mean over small
    batches). It is not invariant under rescaling of layers.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)  # L = ((w_1 - 1)^2 + (w_2 - 1)^2) / 2
    >>> round(sam_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)), rho=2**0.5).value, 5)  # at (-1, -1)
    3.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        rho: Radius in the units of the weights; 0.05 is the value of Foret et al. for CIFAR.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If the gradient is zero: the step has no direction.
        FlatlibError: If rho is not positive, or `HessianOperator` refuses.
    """
    require_positive(rho=rho)
    around = PerturbedLoss(HessianOperator(model, loss, data, **options))
    base, gradient = around.loss_and_gradient()
    if not gradient.any():
        raise NotDefined("the gradient is zero: SAM's perturbation has no direction here")
    return ascend(around, torch.ones_like(gradient), BALLS["l2"], rho, 1, base, gradient)


def _unit(v: Tensor, p: int) -> Tensor:
    """Return v at a p-norm of 1, or zero; scaled first, as squares of small float32 numbers vanish."""
    largest = v.abs().max()
    return v if largest == 0 else torch.nn.functional.normalize(v / largest, p=p, dim=0)


class Ball(NamedTuple):
    """Ball of radius 1 in a norm: its point furthest along a vector, and the vector at length 1 in the dual norm."""

    steepest: Callable[[Tensor], Tensor]
    dual_unit: Callable[[Tensor], Tensor]


BALLS = {
    "l2": Ball(partial(_unit, p=2), partial(_unit, p=2)),
    "linf": Ball(torch.sign, partial(_unit, p=1)),
}


def ascend(
    around: PerturbedLoss, scale: Tensor, ball: Ball, rho: float, steps: int, base: float, slope: Tensor
) -> LossIncrease:
    """Return the best of all points of the ascent, which starts where the ball is furthest along a slope, (n,), in the
    ball's coordinates; the origin counts, except for a single step."""
    best = LossIncrease(0.0, base, torch.zeros_like(scale), 0.0, 1)
    direction = ball.steepest(slope)
    for step in range(steps):
        perturbation = rho * scale * direction
        value, gradient = around.loss_and_gradient(perturbation)
        alignment = float(direction @ ball.dual_unit(scale * gradient))
        if value - base > best.value or steps == 1:
            best = LossIncrease(value - base, base, perturbation, alignment, step + 2)
        direction = ball.steepest(scale * gradient)
        if alignment > STATIONARY or not direction.any():
            break
    return replace(best, evaluations=step + 2)
