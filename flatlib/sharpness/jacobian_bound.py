"""How large the Jacobian must be somewhere for the outputs to be near their targets (MacDonald et al. 2023)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data, Examples
from flatlib.curvature.operators.forward import forward_logits, without_gradients
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.errors import FlatlibError, NotDefined
from flatlib.losses import SmoothedCrossEntropy, SmoothedSquaredError, cross_entropy, resolve_loss, squared_error


class JacobianBound(NamedTuple):
    r"""Difference quotients of targets and outputs, in outputs per unit of input, maxima over pairs of examples.

    Attributes:
        value: $\max_{i \ne j} (\|f^*_i - f^*_j\| - 2 \ell) / \|x_i - x_j\|$; negative if no targets are 2 l apart.
        misfit: $\ell$, the largest distance between output and target that the losses allow.
        fitted: The same for l = 0: where ``value`` ends if every example is fitted.
        quotient: $\max_{i \ne j} \|f_i - f_j\| / \|x_i - x_j\|$ of the outputs themselves, at least ``value``.
    """

    value: float
    misfit: float
    fitted: float
    quotient: float


def jacobian_lower_bound(model: nn.Module, loss: Loss, data: Data, *, chunk_size: int = 500) -> JacobianBound:
    r"""Compute the term of Theorem 5.1 of MacDonald et al. 2023 that depends on the data, over all pairs of examples.

    The largest $\|J f(x_i)\|_2$ is at least the largest $(\|f^*_i - f^*_j\| - 2\ell) / \|x_i - x_j\|$ of a pair, less
    the largest $V_i$, if no cost $c(f_i, f^*_i)$ exceeds $\ell^2 \alpha$, where $c \ge \alpha \|f - f^*\|^2$. For
    cross-entropy less the entropy of the targets f is the softmaxed model, $f^*$ its (smoothed) probabilities and
    $\alpha = 1/2$ by Pinsker's inequality; for "squared" f is the model, $f^*$ one-hot or smoothed, $\alpha = 1/2$. The
    smallest such $\ell$ is taken. $V_i$, the variation of the Jacobian around $x_i$, is not computed: somewhere
    between the two inputs the norm is at least this large, at the examples themselves it may be smaller. Evaluation
    mode; pairs of equal inputs are excluded.

    >>> model = nn.Linear(1, 2, bias=False)  # f = (x, -x)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> found = jacobian_lower_bound(model, "squared", (torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])))
    >>> [round(number, 4) for number in found]  # targets 2^0.5 apart, outputs 8^0.5, inputs 2; each output 1 off
    [-0.2929, 1.0, 0.7071, 1.4142]

    Args:
        model: Maps (N, ...) to outputs (N, C), one example independent of the others; left as it was.
        loss: "cross_entropy", "squared", a `SmoothedCrossEntropy` or a `SmoothedSquaredError`.
        data: (inputs, classes or probabilities) or an iterable of such batches.
        chunk_size: Examples that are compared with all others at the same time.

    Raises:
        NotDefined: If the loss is another, or all inputs are equal.
        FlatlibError: If the data are empty or of integers, a class does not exist, or the outputs are not (N, C).
    """
    if chunk_size < 1:
        raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of examples")
    loss = resolve_loss(loss)
    smoothed = isinstance(loss, SmoothedCrossEntropy | SmoothedSquaredError)
    if loss not in (cross_entropy, squared_error) and not smoothed:
        raise NotDefined("the bound is known for the cross-entropy and the squared loss only")
    x, y = Examples.read(data).require_pair()
    if not x.is_floating_point():
        raise FlatlibError(f"inputs of {x.dtype} have no distances: convert the integer inputs to floating point")
    output = _outputs(model, x, chunk_size)
    target = _probabilities(y.to(output.device), output, loss)
    if loss is squared_error or isinstance(loss, SmoothedSquaredError):
        costs = (output - target).square().sum(1) / 2
    else:
        costs = (target.xlogy(target) - target * output.log_softmax(1)).sum(1).clamp_min(0)
        output = output.softmax(1)
    misfit = float((2 * costs.max()).sqrt())
    inputs = x.to(output.device).flatten(1).double()
    rows = [_largest_quotients(inputs, target, output, misfit, part) for part in _parts(len(x), chunk_size)]
    value, fitted, quotient = torch.stack(rows).amax(0).tolist()
    if value == -torch.inf:
        raise NotDefined("all inputs are equal: there is no pair to compare")
    return JacobianBound(value, misfit, fitted, quotient)


def _parts(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]


def _outputs(model: nn.Module, x: Tensor, chunk_size: int) -> Tensor:
    """Return the model's outputs in evaluation mode, in float64."""
    frozen = FrozenModel(model)
    set_modes(frozen.module, "eval")
    first = next(frozen.module.parameters())
    with frozen.measuring():
        return without_gradients(
            lambda: torch.cat([forward_logits(frozen, part.to(first)).double() for part in x.split(chunk_size)])
        )


def _probabilities(y: Tensor, output: Tensor, loss: Loss) -> Tensor:
    """Return the targets as rows (N, C) in float64, smoothed as the loss smooths them."""
    classes = output.shape[1]
    if not y.is_floating_point():
        if y.ndim != 1 or not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise FlatlibError(f"the targets are not classes of outputs of {classes} classes")
        y = F.one_hot(y.long(), classes)
    if y.shape != output.shape:
        raise FlatlibError(f"targets of shape {tuple(y.shape)} for outputs of shape {tuple(output.shape)}")
    smoothing = getattr(loss, "smoothing", 0.0)
    return (1 - smoothing) * y.double() + smoothing / classes


def _largest_quotients(x: Tensor, target: Tensor, output: Tensor, misfit: float, part: slice) -> Tensor:
    """Return the largest quotients of a part of the examples with all: of the targets less 2 l, targets and outputs."""
    # Not by the expansion |a|^2 - 2ab + |b|^2, of which rounding leaves a distance between equal inputs.
    inputs, targets, outputs = (
        torch.cdist(rows[part], rows, compute_mode="donot_use_mm_for_euclid_dist") for rows in (x, target, output)
    )
    quotients = torch.stack([targets - 2 * misfit, targets, outputs]) / inputs
    return quotients.where(inputs > 0, -torch.inf).amax((1, 2))
