"""The rise of the loss within a ball, found by ascent: SAM (Foret et al. 2021), adaptive SAM (Kwon et al. 2021)."""

from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError, NotDefined
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

GAP = 1e-3  # part of the rise below which the Frank-Wolfe gap ends an ascent: on trained nets 0.1 to 0.3 % was left


@dataclass(frozen=True)
class LossIncrease:
    r"""Rise of the loss at a point of a ball: a certified lower bound of the largest rise in it.

    Attributes:
        value: $L(w + \epsilon) - L(w)$, in the units of the loss.
        loss: $L(w)$.
        perturbation: $\epsilon$, (n,), flat in the order of the operator's parameters.
        alignment: Cosine of the angle between $\epsilon$ and the gradient at $w + \epsilon$, both in the coordinates in
            which the ball is round. At a maximum on the ball's surface it is 1; nothing bounds the maximum from above.
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
    return _ascent(around, torch.ones_like(gradient), rho, 1, gradient)


def adaptive_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    rho: float = 0.5,
    eta: float = 0.0,
    steps: int = 20,
    tolerance: float = GAP,
    seed: int = 0,
    around: PerturbedLoss | None = None,
    **options: Unpack[Options],
) -> LossIncrease:
    r"""Compute the largest rise found in a ball that is round in multiples of each weight.

    It is a lower bound of $\max_{\|T_w^{-1} \epsilon\|_2 \le \rho} L(w + \epsilon) - L(w)$ with
    $T_w = \mathrm{diag}(|w_i| + \eta)$.

    Rescaling layers without changing the function changes nothing (exactly so for $\eta = 0$; a weight of zero then
    stays zero). With $\epsilon = T_w v$ the maximum is approached by $v \leftarrow \rho\, T_w g / \|T_w g\|_2$, $g$ the
    gradient at $w + T_w v$, from $v = 0$: its first step is ASAM's perturbation, and where the loss is convex along the
    way every later step rises. It ends when the Frank-Wolfe gap, the rise of a further step to first order, is a small
    part of the rise. The value is the largest rise of all points evaluated, the origin among them.

    Kwon et al. 2021, "ASAM", definition 2 with the element-wise operator and p = 2. Unlike their code, which leaves
    biases unscaled, all parameters are scaled: otherwise rescaling a layer with a bias changes the value.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2)  # L = ((w_1 - 1)^2 + (w_2 - 1)^2) / 2
    >>> round(adaptive_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)), rho=0.5**0.5).value, 5)  # at (3, 3)
    3.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        rho: Radius, without unit; 0.5 is the value of Kwon et al. for CIFAR-10.
        eta: Constant added to every |w|, in the units of the weights; Kwon et al. train with 0.01.
        steps: Most steps of the ascent, 20 tuned; 1 is ASAM's own perturbation.
        tolerance: Part of the rise at which the Frank-Wolfe gap ends the ascent.
        seed: Seed of the first direction where the gradient is exactly zero.
        around: The loss around the weights, if it exists already: its gradient there is then not computed again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If all weights are zero.
        FlatlibError: If rho, eta, steps or tolerance are out of range, or `HessianOperator` refuses.
    """
    require_positive(rho=rho, steps=steps, tolerance=tolerance)
    if not 0 <= eta < float("inf"):
        raise FlatlibError(f"eta={eta} must not be negative")
    around = around or PerturbedLoss(HessianOperator(model, loss, data, **options))
    scale = around.weights.abs() + eta
    if not scale.any():
        raise NotDefined("all weights are zero: no perturbation is small beside them")
    _, gradient = around.at_weights
    if not (scale * gradient).any():
        gradient = torch.randn(len(scale), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(scale)
    return _ascent(around, scale, rho, steps, gradient, tolerance)


def _ascent(
    around: PerturbedLoss, scale: Tensor, rho: float, steps: int, gradient: Tensor, tolerance: float = GAP
) -> LossIncrease:
    """Return the best of all points of the ascent; the origin counts, except for a single step."""
    base, here = around.at_weights
    best = LossIncrease(0.0, base, torch.zeros_like(scale), 0.0, rho * _norm(scale * here), 1)
    direction = _unit(scale * gradient)
    for step in range(steps):
        perturbation = rho * scale * direction
        value, gradient = around.loss_and_gradient(perturbation)
        following = _unit(scale * gradient)
        alignment = float(direction @ following)
        gap = rho * _norm(scale * gradient) * max(0.0, 1 - alignment)
        if value - base > best.value or steps == 1:
            best = LossIncrease(value - base, base, perturbation, alignment, gap, step + 2)
        if gap <= tolerance * best.value or not following.any():
            break
        direction = following
    return replace(best, evaluations=step + 2)


def _unit(v: Tensor) -> Tensor:
    """Return v at length 1, or zero; scaled first, as squares of small float32 numbers vanish."""
    largest = v.abs().max()
    return v if largest == 0 else torch.nn.functional.normalize(v / largest, dim=0)


def _norm(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))
