r"""Independent check of derivatives: the slope of the loss and the products against central differences.

Autograd is right about the graph that it recorded, which need not be that of the loss: gradients may be cut, scaled or
replaced, a function's derivative may be wrong or missing, or the model may compute with other weights than those that
are measured. Differences of the loss know nothing of this. They are taken in float64, on few of the examples, in a
random direction, and a little away from the weights, since a network that is new or sparse often stands exactly on a
kink of ReLU, where there is no derivative.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from flatlib.errors import FlatlibError

if TYPE_CHECKING:
    from flatlib.curvature.operators.base import CurvatureOperator

EXAMPLES = 8  # at most, and one in SHARE of all
SHARE = 50
MOST = 200  # where fewer are not enough
STEPS = (1e-8, 1e-9, 1e-7)  # of the size of each weight: another is tried where a kink may lie within
AWAY = 1e-3  # distance from the weights, of their size
SMALLEST = 1e-3  # size of a weight below which steps do not shrink with it
TOLERANCE = 1e-3  # relative difference that neither rounding nor curvature explains; measured 1e-6 on smooth networks
ROUNDING = 1e2  # units in the last place by which a loss may be off


class Point(NamedTuple):
    """The loss and its gradient, (n,), at some weights."""

    loss: float
    gradient: Tensor


def require_derivatives(operator: "CurvatureOperator", products: bool) -> None:
    """Raise a ``FlatlibError`` if gradient or product of a float64 copy on few examples are not those of its loss.

    Args:
        operator: Operator, while it measures.
        products: Whether products are compared too.
    """
    generator = torch.Generator().manual_seed(0)
    copy = _copy(operator)
    if copy is None:
        return
    size = max(abs(copy.point().loss), copy.loss_at_random_outputs(generator))
    with torch.no_grad():
        weights = [p.detach().clone() for p in copy.parameters.values()]
    sizes = [max(float(w.square().mean().sqrt()), SMALLEST) for w in weights]
    message = ""
    for step in STEPS:
        away, direction = (
            [
                s * torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w)
                for s, w in zip(sizes, weights, strict=True)
            ]
            for _ in range(2)
        )
        centre = [w + AWAY * a for w, a in zip(weights, away, strict=True)]
        try:
            message = _disagreement(copy, centre, direction, step, size, products)
        except FlatlibError:  # the loss is not finite or not defined there
            return
        if not message:
            return
    raise FlatlibError(message)


def _copy(operator: "CurvatureOperator") -> "CurvatureOperator | None":
    """Return a float64 copy on few examples, on all if its loss takes no fewer, or None if it has to stay float32."""
    for count in (max(2, min(EXAMPLES, operator.examples // SHARE)), min(operator.examples, MOST)):
        try:
            copy = operator.sampled(count, torch.float64)
            copy.point()
            return copy
        except FlatlibError:  # whatever else is wrong shows in a product
            continue
    return None


def _disagreement(
    copy: "CurvatureOperator", centre: list[Tensor], direction: list[Tensor], step: float, size: float, products: bool
) -> str:
    """Return what is wrong with the derivatives at the centre, in one line, or nothing; the loss rounds like size."""
    v = torch.cat([d.flatten() for d in direction])
    ahead, behind = (_at(copy, centre, direction, sign * step) for sign in (1, -1))
    here = _at(copy, centre, direction, 0.0)
    terms = (here.gradient * v).split([d.numel() for d in direction])
    slope, found = (ahead.loss - behind.loss) / (2 * step), sum(float(term.sum()) for term in terms)
    allowed = TOLERANCE * sum(abs(float(term.sum())) for term in terms)
    rounding = ROUNDING * torch.finfo(v.dtype).eps / step
    allowed += rounding * max(abs(ahead.loss), abs(behind.loss), size)
    if not abs(slope - found) <= allowed:
        return (
            f"the gradient is not the derivative of the loss: along a random direction it gives {found:.4g}, "
            f"differences of the loss {slope:.4g} (is a gradient cut, scaled or replaced?)"
        )
    product = copy.difference_product(v) if products else None
    if product is not None:
        true = (ahead.gradient - behind.gradient) / (2 * step)
        rounding *= float(here.gradient.norm()) + size / float(v.norm())  # a gradient may be zero but for rounding
        off = float((product - true).norm())
        if not off <= TOLERANCE * float(true.norm()) + rounding:
            return (
                f"a product is off by {off / max(float(true.norm()), rounding):.1g} of what differences of the gradient"
                " give: an operation of the model or loss has a second derivative that is wrong"
            )
    return ""


def _at(copy: "CurvatureOperator", centre: list[Tensor], direction: list[Tensor], step: float) -> Point:
    with torch.no_grad():
        for p, c, d in zip(copy.parameters.values(), centre, direction, strict=True):
            p.copy_(c + step * d)
    return copy.point()
