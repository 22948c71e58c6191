r"""Independent check of derivatives: the slope of the loss and the products against central differences.

Autograd is right about the graph that it recorded, which need not be that of the loss: gradients may be cut, scaled or
replaced, a function's derivative may be wrong or missing, or the model may compute with other weights than those that
are measured. Differences of the loss know nothing of this. They are taken in float64, on few of the examples, in a
random direction, and a little away from the weights, since a network that is new or sparse often stands exactly on a
kink of ReLU, where there is no derivative.
"""

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import EmpiricalRisk
from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.loss_checks import elsewhere, of_floats
from flatlib.curvature.operators.nested import is_transparent
from flatlib.curvature.operators.precision import is_finite
from flatlib.errors import FlatlibError

EXAMPLES = 4  # at most, and one in SHARE of all
SHARE = 50
OF_A_BATCH = 16  # whose statistics are used: two values of a channel become 1 and -1 whatever they are
MOST = 200  # where fewer are not enough
# Of the size of each weight: others are tried where a kink may lie within; the last two are for models that always
# compute a part in float32, as the norms and losses of language models do.
STEPS = (1e-8, 1e-9, 1e-7, 3e-4, 1e-3)
AWAY = 1e-3  # distance from the weights, of their size
SMALLEST = 1e-3  # size of a weight below which steps do not shrink with it
TOLERANCE = 1e-4  # relative difference that neither rounding nor curvature explains; measured 1e-6 on smooth networks
LONG, LONG_TOLERANCE = 1e-5, 1e-3  # the same for steps longer than this
ROUNDING = 1e2  # units in the last place by which a loss may be off


def require_derivatives(risk: EmpiricalRisk, products: bool) -> None:
    """Raise a ``FlatlibError`` if gradient or product of a float64 copy on few examples are not those of its loss.

    Args:
        risk: What is measured.
        products: Whether a product is compared too: its component along a random direction.
    """
    found = _copy(risk)
    if found is None:
        return
    copy, loss = found
    generator = torch.Generator().manual_seed(0)
    sizes = [float(torch.linalg.vector_norm(p.detach())) / p.numel() ** 0.5 for p in copy.parameters.values()]
    smallest = min((s for s in sizes if s > SMALLEST), default=SMALLEST)  # also of biases that are zero
    sizes = [max(s, smallest) for s in sizes]

    @functools.cache
    def rounding_size() -> float:
        return max(abs(loss), *_losses_elsewhere(copy, sizes, generator))

    change, unit = abs(_loss(copy) - loss), ROUNDING * torch.finfo(torch.float64).eps
    if not change <= unit * abs(loss) and not change <= unit * rounding_size():
        raise FlatlibError(
            "the loss changes whenever it is computed (random numbers of its own, a counter, a running average?): its "
            "curvature is not defined"
        )
    messages: list[str] = []
    for step in STEPS:
        direction = _random(copy, sizes, generator)
        _move(copy, direction, AWAY)
        try:
            messages.append(_disagreement(copy, direction, step, rounding_size, products))
        except FlatlibError:  # the loss is not finite or not defined there
            return
        if not messages[0] or messages.count("") == 2:  # a single later agreement may be chance
            return
    raise FlatlibError(messages[0])


def _loss(copy: EmpiricalRisk) -> float:
    (chunk,) = copy.chunks()
    with copy.measuring():
        return float(without_gradients(lambda: copy.chunk_loss(chunk)))


def _copy(risk: EmpiricalRisk) -> tuple[EmpiricalRisk, float] | None:
    """Return a float64 copy on few examples, on all if its loss takes no fewer, and its loss; None if it has to stay
    float32."""
    few = OF_A_BATCH if risk.batch_norm == "train" else max(2, min(EXAMPLES, risk.examples // SHARE))
    for count in (few, min(risk.examples, MOST)):
        try:
            copy = risk.sampled(count, torch.float64)
            return copy, _loss(copy)
        except FlatlibError:  # whatever else is wrong shows in a product
            continue
    return None


def _losses_elsewhere(copy: EmpiricalRisk, sizes: list[float], generator: torch.Generator) -> list[float]:
    """Return losses of the size that rounding goes with: one near zero is a difference of larger numbers."""
    found, (chunk,) = [0.0], copy.chunks()
    with copy.measuring():
        output = None if copy.takes_model else without_gradients(lambda: copy.output(chunk.inputs))
        if output is not None and is_transparent(output):
            for other in (elsewhere(copy.checked_loss, output, chunk.targets, generator), of_floats(output, torch.neg)):
                with contextlib.suppress(FlatlibError):
                    found.append(abs(float(copy.checked_loss(other, chunk.targets).detach())))
            return found
        before = [p.detach().clone() for p in copy.parameters.values()]
        for p in copy.parameters.values():
            p.detach().neg_()
        _move(copy, _random(copy, sizes, generator), 1.0)
        with contextlib.suppress(FlatlibError):
            found.append(abs(float(copy.chunk_loss(chunk).detach())))
        for p, value in zip(copy.parameters.values(), before, strict=True):
            p.detach().copy_(value)
    return found


def _random(copy: EmpiricalRisk, sizes: list[float], generator: torch.Generator) -> Tensor:
    """Return a random vector (n,) with entries of the size of the weights of each tensor; zeros where they are padding,
    which PyTorch treats as a constant."""
    padding = {
        id(module.weight): module.padding_idx
        for module in copy.model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
    vector = torch.empty(copy.shape[0]).uniform_(-1, 1, generator=generator).to(copy.device, torch.float64)
    parameters = list(copy.parameters.values())
    pieces = vector.split([p.numel() for p in parameters])
    for p, piece, size in zip(parameters, pieces, sizes, strict=True):
        piece.mul_(size)
        if id(p) in padding:
            piece.view_as(p)[padding[id(p)]] = 0
    return vector


@torch.no_grad()
def _move(copy: EmpiricalRisk, direction: Tensor, step: float) -> None:
    parameters = list(copy.parameters.values())
    for p, piece in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        p.add_(piece.view_as(p), alpha=step)


def _disagreement(
    copy: EmpiricalRisk, v: Tensor, step: float, rounding_size: Callable[[], float], products: bool
) -> str:
    """Return what is wrong with the derivatives at the weights, in one line, or nothing.

    Args:
        copy: What is measured, in float64; its weights come back to where they were but for rounding.
        v: Direction of the differences, (n,).
        step: Distance of their points, of v.
        rounding_size: Returns the size of the loss that its rounding goes with; called where it matters.
        products: Whether a product is compared too.
    """
    u = v.flip(0).sign_()
    tolerance = LONG_TOLERANCE if step > LONG else TOLERANCE
    losses, states = [], []
    for move in (step, -2 * step):
        _move(copy, v, move)
        losses.append(copy.point())
        states.append(copy.differenced(u))
    _move(copy, v, step)
    copy.point()
    gradient, sizes = copy.point_gradient(), [p.numel() for p in copy.parameters.values()]
    terms = [float(g @ piece) for g, piece in zip(gradient.split(sizes), v.split(sizes), strict=True)]
    slope, found = (losses[0] - losses[1]) / (2 * step), sum(terms)
    rounding = ROUNDING * torch.finfo(v.dtype).eps / step
    off, allowed = abs(slope - found), tolerance * sum(map(abs, terms)) + rounding * max(map(abs, losses))
    if not off <= allowed and not off <= allowed + rounding * rounding_size():
        return (
            f"the gradient is not the derivative of the loss: along a random direction it gives {found:.4g}, "
            f"differences of the loss {slope:.4g} (is a gradient cut, scaled or replaced?)"
        )
    scale = copy.gradient_size(gradient)
    del gradient
    product = copy.difference_product(v) if products else None
    if product is not None and is_finite(product):  # one that is not is refused where it is used
        change = [(one - other) / (2 * step) for one, other in zip(*states, strict=True)]
        slope, found, length = copy.along(u, change), float(u @ product), float(product.norm())
        off, allowed = abs(slope - found), tolerance * length + rounding * scale
        # A gradient may be zero but for rounding.
        if not off <= allowed and not off <= allowed + rounding * rounding_size() / float(v.norm()):
            return (
                f"a product is not the derivative of the gradient: along a random direction it gives {found:.4g}, "
                f"differences of the gradient {slope:.4g} (an operation with a second derivative that is wrong?)"
            )
    return ""
