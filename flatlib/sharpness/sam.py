"""The rise of the loss within a ball, found by ascent, and at the one step of SAM (Foret et al. 2021)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import NotDefined
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

GAP = 1e-3  # part of the rise below which the Frank-Wolfe gap ends an ascent: on trained nets 0.1 to 0.3 % was left


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
        frank_wolfe_gap: $\max_s \langle \nabla L(w + \epsilon), s - \epsilon \rangle$ over the ball: the further rise
            to first order (Jaggi 2013), 0 at a maximum. Where the loss is concave it bounds the rise.
        evaluations: Number of gradients computed.
    """

    value: float
    loss: float
    perturbation: Tensor
    alignment: float
    frank_wolfe_gap: float
    evaluations: int


def sam_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    rho: float = 0.05,
    around: PerturbedLoss | None = None,
    **options: Unpack[Options],
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
        around: The loss around the weights, if it exists already: its gradient there is then not computed again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If the gradient is zero: the step has no direction.
        FlatlibError: If rho is not positive, or `HessianOperator` refuses.
    """
    require_positive(rho=rho)
    around = around or PerturbedLoss(HessianOperator(model, loss, data, **options))
    _, gradient = around.at_weights
    if not gradient.any():
        raise NotDefined("the gradient is zero: SAM's perturbation has no direction here")
    return ascend(around, torch.ones_like(gradient), BALLS["l2"], rho, 1, gradient)


def _unit(v: Tensor) -> Tensor:
    """Return v at length 1, or zero; scaled first, as squares of small float32 numbers vanish."""
    largest = v.abs().max()
    return v if largest == 0 else torch.nn.functional.normalize(v / largest, dim=0)


class Ball(NamedTuple):
    """Ball of radius 1 in a norm: its point furthest along a vector, and p of the dual norm, which is the distance."""

    steepest: Callable[[Tensor], Tensor]
    dual: int


BALLS = {"l2": Ball(_unit, 2), "linf": Ball(torch.sign, 1)}


def ascend(
    around: PerturbedLoss,
    scale: Tensor,
    ball: Ball,
    rho: float,
    steps: int,
    slope: Tensor,
    tolerance: float = GAP,
) -> LossIncrease:
    """Return the best of all points of the ascent, which starts where the ball is furthest along a slope, (n,), in the
    ball's coordinates; the origin counts, except for a single step."""
    base, here = around.at_weights
    best = LossIncrease(0.0, base, torch.zeros_like(scale), 0.0, rho * _furthest(ball, scale * here), 1)
    direction = ball.steepest(slope)
    for step in range(steps):
        perturbation = rho * scale * direction
        value, gradient = around.loss_and_gradient(perturbation)
        slope = scale * gradient
        furthest = _furthest(ball, slope)
        alignment = float(direction.double() @ slope.double()) / (furthest or 1.0)
        gap = rho * furthest * max(0.0, 1 - alignment)
        if value - base > best.value or steps == 1:
            best = LossIncrease(value - base, base, perturbation, alignment, gap, step + 2)
        direction = ball.steepest(slope)
        if gap <= tolerance * best.value or not direction.any():
            break
    return replace(best, evaluations=step + 2)


def _furthest(ball: Ball, slope: Tensor) -> float:
    """Return the largest product of a slope and a point of the ball."""
    return float(torch.linalg.vector_norm(slope, ball.dual, dtype=torch.float64))
