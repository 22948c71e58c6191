r"""Independent check of derivatives: the slope of the loss and the products against central differences.

Autograd is right about the graph that it recorded, which need not be that of the loss: gradients may be cut, scaled or
replaced, a function's derivative may be wrong or missing, or the model may compute with other weights than those that
are measured. Differences of the loss know nothing of this. They are taken in float64, on few of the examples, in a
random direction, and a little away from the weights, since a network that is new or sparse often stands exactly on a
kink of ReLU, where there is no derivative.
"""

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import EmpiricalRisk
from flatlib.errors import FlatlibError

EXAMPLES = 8  # at most, and one in SHARE of all
SHARE = 50
MOST = 200  # where fewer are not enough
# Of the size of each weight: another is tried where a kink may lie within; the last is for models that always compute a
# part in float32, as the norms and losses of language models do.
STEPS = (1e-8, 1e-9, 1e-7, 3e-4)
AWAY = 1e-3  # distance from the weights, of their size
SMALLEST = 1e-3  # size of a weight below which steps do not shrink with it
TOLERANCE = 1e-3  # relative difference that neither rounding nor curvature explains; measured 1e-6 on smooth networks
ROUNDING = 1e2  # units in the last place by which a loss may be off


def require_derivatives(risk: EmpiricalRisk, products: bool) -> None:
    """Raise a ``FlatlibError`` if gradient or product of a float64 copy on few examples are not those of its loss.

    Args:
        risk: What is measured.
        products: Whether a product is compared too: its component along a random direction.
    """
    copy = _copy(risk)
    if copy is None:
        return
    generator = torch.Generator().manual_seed(0)
    size = max(abs(copy.point()[0]), copy.loss_at_random_outputs(generator))
    sizes = [max(float(p.detach().square().mean().sqrt()), SMALLEST) for p in copy.parameters.values()]
    message = ""
    for step in STEPS:
        _move(copy, _random(copy, sizes, generator), AWAY)
        direction = _random(copy, sizes, generator)
        try:
            message = _disagreement(copy, direction, step, size, products)
        except FlatlibError:  # the loss is not finite or not defined there
            return
        if not message:
            return
    raise FlatlibError(message)


def _copy(risk: EmpiricalRisk) -> EmpiricalRisk | None:
    """Return a float64 copy on few examples, on all if its loss takes no fewer, or None if it has to stay float32."""
    for count in (max(2, min(EXAMPLES, risk.examples // SHARE)), min(risk.examples, MOST)):
        try:
            copy = risk.sampled(count, torch.float64)
            copy.point()
            return copy
        except FlatlibError:  # whatever else is wrong shows in a product
            continue
    return None


def _random(copy: EmpiricalRisk, sizes: list[float], generator: torch.Generator) -> Tensor:
    """Return a random vector (n,) with entries of the size of the weights of each tensor; zeros where they are padding,
    which PyTorch treats as a constant."""
    padding = {
        id(module.weight): module.padding_idx
        for module in copy.model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
    pieces = []
    for p, size in zip(copy.parameters.values(), sizes, strict=True):
        piece = size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if id(p) in padding:
            piece[padding[id(p)]] = 0
        pieces.append(piece.flatten().to(p.device))
    return torch.cat(pieces)


@torch.no_grad()
def _move(copy: EmpiricalRisk, direction: Tensor, step: float) -> None:
    parameters = list(copy.parameters.values())
    for p, piece in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        p.add_(piece.view_as(p), alpha=step)


def _disagreement(copy: EmpiricalRisk, v: Tensor, step: float, size: float, products: bool) -> str:
    """Return what is wrong with the derivatives at the weights, in one line, or nothing.

    Args:
        copy: What is measured, in float64; its weights come back to where they were but for rounding.
        v: Direction of the differences, (n,).
        step: Distance of their points, of v.
        size: Size of the loss that its rounding goes with.
        products: Whether a product is compared too.
    """
    u = torch.randn(len(v), generator=torch.Generator().manual_seed(1), dtype=v.dtype).to(v.device)
    losses, along = [], []
    for move in (step, -2 * step):
        _move(copy, v, move)
        loss, gradient = copy.point()
        losses.append(loss)
        along.append(float(u @ gradient))
    _move(copy, v, step)
    _, gradient = copy.point()
    terms = [float(term.sum()) for term in (gradient * v).split([p.numel() for p in copy.parameters.values()])]
    slope, found = (losses[0] - losses[1]) / (2 * step), sum(terms)
    rounding = ROUNDING * torch.finfo(v.dtype).eps / step
    if not abs(slope - found) <= TOLERANCE * sum(map(abs, terms)) + rounding * max(*map(abs, losses), size):
        return (
            f"the gradient is not the derivative of the loss: along a random direction it gives {found:.4g}, "
            f"differences of the loss {slope:.4g} (is a gradient cut, scaled or replaced?)"
        )
    rounding *= float(gradient.norm()) + size / float(v.norm())  # a gradient may be zero but for rounding
    del gradient
    product = copy.difference_product(v) if products else None
    if product is not None and torch.isfinite(product).all():  # one that is not is refused where it is used
        slope, found, length = (along[0] - along[1]) / (2 * step), float(u @ product), float(product.norm())
        if not abs(slope - found) <= TOLERANCE * length + rounding:
            return (
                f"a product is not the derivative of the gradient: along a random direction it gives {found:.4g}, "
                f"differences of the gradient {slope:.4g} (an operation with a second derivative that is wrong?)"
            )
    return ""
