"""Critical sharpness: two over the smallest learning rate whose step raises the loss; no second derivative is used."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.errors import FlatlibError, NotDefined, NotFinite
from flatlib.sharpness.perturbed_loss import Options, PerturbedLoss, require_positive

TOLERANCE = 1 / 16  # Kalra et al. 2026, section 2.2
MOST = 100  # doublings or halvings, as in the code of Kalra et al.
ROUNDING = 10.0  # units in the last place of the loss below which a change of it is not seen; not tuned


@dataclass(frozen=True)
class CriticalSharpness:
    r"""Critical sharpness $\lambda_c = 2 / \eta_c$ with the learning rates that enclose $\eta_c$.

    Attributes:
        value: 2 over the middle of the two learning rates, in units of the loss per squared parameter if the direction
            is a gradient.
        error: Largest distance to the value within the interval of $\lambda_c$ that they give.
        lower_bound: 2 over the larger one, at which the loss is above its present value: certainly not above
            $\lambda_c$, even where the loss rises and falls several times.
        learning_rates: Smaller and larger one; at the smaller the loss is not above its present value.
        evaluations: Number of losses computed.
    """

    value: float
    error: float
    lower_bound: float
    learning_rates: tuple[float, float]
    evaluations: int


def critical_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    direction: Tensor | None = None,
    tolerance: float = TOLERANCE,
    start: float | None = None,
    around: PerturbedLoss | None = None,
    **options: Unpack[Options],
) -> CriticalSharpness:
    r"""Compute $\lambda_c = 2 / \eta_c$, $\eta_c$ the least $\eta > 0$ with $L(w - \eta \Delta) > L(w)$.

    Kalra et al. 2026, "A scalable measure of loss landscape curvature" (arXiv:2601.16979), definition 2.1: the
    direction $\Delta$ is that of the optimizer's step, by default the gradient. For a quadratic loss it is
    $\Delta^\top H \Delta / \Delta^\top g$ (their definition 2.2), which along the gradient is at most the largest
    eigenvalue. Their line search: the learning rate is doubled or halved until the loss crosses its present value, and
    the interval is halved until its ends differ by a part ``tolerance``.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)  # L = ((w_1 - 1)^2 + (w_2 - 1)^2) / 2, whose Hessian is the unit matrix
    >>> found = critical_sharpness(model, "mse", (torch.eye(2), torch.ones(2, 1)), tolerance=1e-4)
    >>> abs(found.value - 1) <= found.error < 1e-4
    True

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches.
        direction: $\Delta$, (n,), flat in the order of the operator's parameters, such as the optimizer's last step
            over minus its learning rate; by default the gradient.
        tolerance: Relative width of the interval of learning rates; every halving costs one loss.
        start: Learning rate to start from, such as an earlier $\eta_c$; by default that of a parabola with minimum 0.
        around: The loss around the weights, if it exists already: its gradient there is then not computed again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`.

    Raises:
        NotDefined: If the loss does not fall along $-\Delta$, or by less than its rounding, or never rises again.
        FlatlibError: If tolerance, start or the direction's shape is not allowed, or `HessianOperator` refuses.
    """
    require_positive(tolerance=tolerance, **({} if start is None else {"start": start}))
    around = around or PerturbedLoss(HessianOperator(model, loss, data, **options))
    base, gradient = around.at_weights
    step = gradient if direction is None else direction.detach().to(gradient)
    if step.shape != gradient.shape or not torch.isfinite(step).all():
        raise FlatlibError(f"direction must be {len(gradient)} finite numbers, got the shape {tuple(step.shape)}")
    slope = float(gradient.double() @ step.double())
    if slope <= 0:
        raise NotDefined("the loss does not fall along the direction: there is no critical learning rate")
    search = _LineSearch(around, base, step)
    low, high = search.enclose(start or (4 * base / slope if base > 0 else 1.0))
    while 1 - low / high > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if search.rises(middle) else (middle, high)
    if low * slope <= ROUNDING * torch.finfo(gradient.dtype).eps * abs(base):
        raise NotDefined("the loss falls by less than its rounding along the direction: pass dtype=torch.float64")
    value = 4 / (low + high)
    return CriticalSharpness(value, 2 / low - value, 2 / high, (low, high), search.evaluations + 1)


class _LineSearch:
    """Comparison of the loss after a step with the present one."""

    def __init__(self, around: PerturbedLoss, base: float, step: Tensor):
        self._around, self._base, self._step = around, base, step
        self.evaluations = 0

    def rises(self, learning_rate: float) -> bool:
        """Return whether the loss after the step is above the present one, or not finite."""
        self.evaluations += 1
        try:
            return self._around.loss(-learning_rate * self._step) > self._base
        except NotFinite:
            return True

    def enclose(self, learning_rate: float) -> tuple[float, float]:
        """Return a learning rate at which the loss does not rise and twice that, at which it does."""
        grows = not self.rises(learning_rate)
        factor = 2.0 if grows else 0.5
        for _ in range(MOST):
            following = factor * learning_rate
            if self.rises(following) == grows:
                return min(learning_rate, following), max(learning_rate, following)
            learning_rate = following
        raise NotDefined("the loss crosses its present value nowhere along the direction")
