"""Checks of a loss that nothing is known about: is it a mean over examples, each compared with its own target?"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flatlib.curvature.operators.nested import detached_leaf, leaves, mapped, with_leaves
from flatlib.errors import FlatlibError

Evaluate = Callable[[Any, Any], Tensor]  # the loss of an output and targets
Slopes = list[Tensor]
TOLERANCE = 1e-3  # relative difference between two slopes that rounding does not explain
AS_ONE = "measure all of them as one chunk, chunk_size=len(x)"


def slopes(loss: Evaluate, output: Any, targets: Any) -> Slopes:
    """Return the gradient of the loss in each floating-point tensor of the output; zeros where there is none."""
    inner = [detached_leaf(leaf) for leaf in leaves(output)]
    value = loss(with_leaves(output, inner), mapped(targets, torch.clone))
    places = [leaf for leaf in inner if leaf.requires_grad]
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in places]
    return list(torch.autograd.grad(value, places, materialize_grads=True))


def noisy(output: Any, generator: torch.Generator) -> Any:
    """Return the output with random numbers added, of the size of its own."""

    def add(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
        return leaf + (leaf.std(correction=0) + leaf.abs().mean() / 10 + 1e-3) * noise

    return mapped(output, add)


def require_mean(repeated_slopes: Callable[[int], Slopes]) -> None:
    """Raise a ``FlatlibError`` if the loss grows with the number of copies of every example, as a sum does.

    A sum's curvature is larger than a mean's by the number of examples. A mean does not change; the slopes of a sum,
    also of one beside a penalty, grow by the same with every copy; what a loss that compares examples does is neither.

    Args:
        repeated_slopes: Gradient of the loss, in anything but the number of copies, of so many copies of every example.
    """
    one, two = repeated_slopes(1), repeated_slopes(2)
    growth = distance(two, one)
    if growth > TOLERANCE * norm(one):
        three = repeated_slopes(3)
        again = [2 * b - a for a, b in zip(one, two, strict=True)]
        if distance(three, again) <= TOLERANCE * growth:
            raise FlatlibError(
                "the loss is a sum over examples: it must be a mean, a sum's curvature grows with the data"
            )


def require_no_broadcast(loss: Evaluate, output: Any, targets: Any) -> None:
    """Raise a ``FlatlibError`` if shapes differ and every output is compared with every target."""
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)) or output.shape == targets.shape:
        return
    message = (
        f"outputs of shape {tuple(output.shape)} and targets of shape {tuple(targets.shape)} are broadcast in the "
        "loss: give both the same shape"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = slopes(loss, output, targets)
    if any("different to the input size" in str(warning.message) for warning in caught):
        raise FlatlibError(message)
    try:
        torch.broadcast_shapes(output.shape, targets.shape)
    except RuntimeError:
        return
    if len(output) > 2 and output.is_floating_point():
        after = slopes(loss, output, targets[:1].expand_as(targets).contiguous())  # the first keeps its own target
        if distance([s[:1] for s in before], [s[:1] for s in after]) > TOLERANCE * norm([s[:1] for s in before]):
            raise FlatlibError(message)


def require_independent(output: Any, last: Any, count: int) -> None:
    """Raise a ``FlatlibError`` if the last examples have other outputs alone than with the rest of their chunk."""
    for together, alone in zip(leaves(output), leaves(last), strict=False):
        if not (together.ndim and alone.ndim and together.is_floating_point()):
            continue
        here = together[-count:]
        if here.shape == alone.shape and here.isfinite().all() and not (alone - here).norm() <= TOLERANCE * here.norm():
            raise FlatlibError(
                "the outputs of one example depend on the others (batch norm without running statistics, a first "
                f"dimension that is not the examples?): {AS_ONE}"
            )


def norm(tensors: Slopes) -> float:
    """Return the Euclidean norm of all entries together."""
    return sum(float(torch.linalg.vector_norm(tensor)) ** 2 for tensor in tensors) ** 0.5


def distance(one: Slopes, other: Slopes) -> float:
    """Return the norm of the difference."""
    return norm([a - b for a, b in zip(one, other, strict=True)])
