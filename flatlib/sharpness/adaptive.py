"""Adaptive sharpness: the largest and the mean rise of the loss in a ball measured in multiples of each weight."""

import math
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError, NotDefined, require_one_of
from flatlib.sharpness.logit_normalization import of_normalized_logits
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive
from flatlib.sharpness.sam import BALLS, GAP, LossIncrease, ascend

RHO = {"l2": 0.5, "linf": 1e-3}  # Kwon et al. 2021 for CIFAR-10; the README of Andriushchenko et al. 2023
MEAN_RHO = 0.1  # in the grids of Andriushchenko et al. 2023 for either distribution


def adaptive_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    norm: str = "l2",
    rho: float | None = None,
    normalize_logits: bool = False,
    eta: float = 0.0,
    steps: int = 20,
    restarts: int = 0,
    tolerance: float = GAP,
    seed: int = 0,
    around: PerturbedLoss | None = None,
    **options: Unpack[Options],
) -> LossIncrease:
    r"""Compute the largest rise found in a ball that is round in multiples of each weight.

    It is a lower bound of $\max_{\|T_w^{-1} \epsilon\|_p \le \rho} L(w + \epsilon) - L(w)$ with
    $T_w = \mathrm{diag}(|w_i| + \eta)$ and p = 2 or $\infty$.

    Rescaling layers without changing the function changes nothing (exactly so for $\eta = 0$; a weight of zero then
    stays zero). With $\epsilon = T_w v$ the maximum is approached from $v = 0$ by the point of the ball furthest along
    $T_w g$, g the gradient at $w + T_w v$: $v \leftarrow \rho\, T_w g / \|T_w g\|_2$ for p = 2, whose first step is
    ASAM's perturbation, and $v \leftarrow \rho\, \mathrm{sign}(g)$ for $p = \infty$. Where the loss is convex along the
    way every later step rises. It ends when the Frank-Wolfe gap, the rise of a further step to first order, is a small
    part of the rise. The value is the largest rise of all points evaluated, the origin among them.

    The ascent can end at a local maximum: on a ReLU network that fits its data (a loss of 4e-5), ten random starts
    found up to 4.7 times the rise that the start along the gradient finds. On the other small networks tried that one
    found at least the rise of 20 steps of APGD, the method of Andriushchenko et al., to 1e-3.

    Kwon et al. 2021, "ASAM", definition 2 with the element-wise operator and p = 2. Unlike their code, which leaves
    biases unscaled, all parameters are scaled: otherwise rescaling a layer with a bias changes the value.
    Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization"
    (arXiv:2302.07011), add $p = \infty$ and the normalization of the logits. They average the maximum over batches of
    128 (m-sharpness); here the ball is searched for all examples at once.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2)  # L = ((w_1 - 1)^2 + (w_2 - 1)^2) / 2
    >>> round(adaptive_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)), rho=0.5**0.5).value, 5)  # at (3, 3)
    3.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        norm: "l2" or "linf".
        rho: Radius, without unit; by default 0.5 for "l2", 0.001 for "linf".
        normalize_logits: Measure the loss of `of_normalized_logits`, which no factor of the outputs changes.
        eta: Constant added to every |w|, in the units of the weights; Kwon et al. train with 0.01.
        steps: Most steps of the ascent, 20 tuned; with "l2" 1 is ASAM's own perturbation.
        restarts: Further ascents from random points of the ball's surface; the best of all counts.
        tolerance: Part of the rise at which the Frank-Wolfe gap ends an ascent.
        seed: Seed of the random points, and of the first direction where the gradient is exactly zero.
        around: The measured loss around the weights, with normalized logits where these are requested, if it exists
            already: its gradient there is then not computed again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If all weights are zero, or the logits cannot be normalized.
        FlatlibError: If norm, rho, eta, steps or tolerance is not allowed, or `HessianOperator` refuses.
    """
    require_one_of("norm", norm, BALLS)
    rho = RHO[norm] if rho is None else rho
    require_positive(rho=rho, steps=steps, tolerance=tolerance)
    if restarts < 0:
        raise FlatlibError(f"restarts={restarts} must not be negative")
    around = around or loss_around(model, loss, data, normalize_logits=normalize_logits, **options)
    scale = _scale(around, eta)
    _, gradient = around.at_weights
    generator = torch.Generator().manual_seed(seed)
    slopes = [torch.randn(len(scale), generator=generator, dtype=torch.float64).to(scale) for _ in range(restarts + 1)]
    slopes[0] = scale * (gradient if (scale * gradient).any() else slopes[0])
    found = [ascend(around, scale, BALLS[norm], rho, steps, slope, tolerance) for slope in slopes]
    return replace(max(found, key=lambda one: one.value), evaluations=1 + sum(one.evaluations - 1 for one in found))


@dataclass(frozen=True)
class MeanLossIncrease:
    r"""Mean rise of the loss over random perturbations.

    Attributes:
        value: Mean of $L(w + \epsilon) - L(w)$, in the units of the loss.
        standard_error: Its standard error over the pairs of perturbations.
        loss: $L(w)$.
        evaluations: Number of losses computed.
    """

    value: float
    standard_error: float
    loss: float
    evaluations: int


def average_adaptive_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    norm: str = "l2",
    rho: float = MEAN_RHO,
    normalize_logits: bool = False,
    eta: float = 0.0,
    pairs: int = 20,
    seed: int = 0,
    around: PerturbedLoss | None = None,
    **options: Unpack[Options],
) -> MeanLossIncrease:
    r"""Estimate the mean rise of the loss over perturbations in proportion to each weight.

    It is $\mathbb{E}[L(w + \rho\, T_w z) - L(w)]$ with $T_w = \mathrm{diag}(|w_i| + \eta)$ and independent $z_i$:
    standard normal for "l2", uniform on [-1, 1] for "linf". At a minimum it is, to second order, $\rho^2 / 2$ times the
    trace of $T_w H T_w$, a third of that for "linf". The perturbations are drawn in pairs $\pm z$, which cancels the
    part linear in z and its noise.

    Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization"
    (arXiv:2302.07011), average-case adaptive sharpness; the distributions are those of `eval_average_sharpness` in
    their code. The radius is per weight: the Euclidean length of $z$ is about $\sqrt n$.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2)  # L = ((w_1 - 1)^2 + (w_2 - 1)^2) / 2: the mean rise is 4 rho^2
    >>> found = average_adaptive_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)), rho=0.5)
    >>> abs(found.value - 1) < 3 * found.standard_error
    True

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        norm: "l2" or "linf", the ball whose counterpart in distribution is drawn.
        rho: Standard deviation ("l2") or half width ("linf") of the perturbation over the weight, without unit.
        normalize_logits: Measure the loss of `of_normalized_logits`, which no factor of the outputs changes.
        eta: Constant added to every |w|, in the units of the weights.
        pairs: Pairs of perturbations, at least 2, fixed beforehand; Andriushchenko et al. draw 20 perturbations.
        seed: Seed of the perturbations.
        around: The measured loss around the weights, with normalized logits where these are requested, if it exists
            already.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If all weights are zero, or the logits cannot be normalized.
        FlatlibError: If norm, rho, eta or pairs are not allowed, or `HessianOperator` refuses.
    """
    require_one_of("norm", norm, BALLS)
    require_positive(rho=rho)
    if pairs < 2:
        raise FlatlibError(f"pairs={pairs} cannot give a standard error: at least 2 are needed")
    around = around or loss_around(model, loss, data, normalize_logits=normalize_logits, **options)
    scale = _scale(around, eta)
    base = around.loss()
    generator = torch.Generator().manual_seed(seed)
    rises = []
    for _ in range(pairs):
        if norm == "l2":
            z = torch.randn(len(scale), generator=generator, dtype=torch.float64)
        else:
            z = 2 * torch.rand(len(scale), generator=generator, dtype=torch.float64) - 1
        step = rho * scale * z.to(scale)
        rises.append((around.loss(step) + around.loss(-step)) / 2 - base)
    values = torch.tensor(rises, dtype=torch.float64)
    return MeanLossIncrease(float(values.mean()), float(values.std()) / math.sqrt(pairs), base, 2 * pairs + 1)


def loss_around(
    model: nn.Module, loss: Loss, data: Data, *, normalize_logits: bool, **options: Unpack[Options]
) -> PerturbedLoss:
    """Return the loss around the weights that adaptive sharpness measures, of normalized logits or not."""
    measured = of_normalized_logits(loss) if normalize_logits else loss
    return PerturbedLoss(HessianOperator(model, measured, data, **options))


def _scale(around: PerturbedLoss, eta: float) -> Tensor:
    """Return the diagonal of T."""
    if not 0 <= eta < float("inf"):
        raise FlatlibError(f"eta={eta} must not be negative")
    scale = around.weights.abs() + eta
    if not scale.any():
        raise NotDefined("all weights are zero: no perturbation is small beside them")
    return scale
