"""Symmetry checks of matrix-vector products: a second derivative that is missing or wrong breaks symmetry first."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flatlib.errors import FlatlibError, NotFinite

# Largest asymmetry relative to the matrix. Float32 rounding makes 6e-6 (MLP) to 3e-3 (ResNet-18 on 5000 images), terms
# that were missing made 0.2 to 1. What lies between counts in an eigenvalue's residual.
ASYMMETRY = 0.03
# Nodes that autograd inserts for a derivative that does not exist. They raise only when passed, and the last node of a
# path is not passed: the derivative is then silently zero.
UNDIFFERENTIABLE = ("torch::autograd::Error", "torch::autograd::NotImplemented")


class SymmetricOperator(Protocol):
    """Symmetric matrix (n, n) known by its products, as Lanczos needs it."""

    shape: tuple[int, int]
    torch_dtype: torch.dtype
    device: torch.device

    @property
    def noise(self) -> float:
        """Norm that rounding gives a zero product with a unit vector."""

    def matvec(self, v: Tensor) -> Tensor:
        """Return the product with v of shape (n,)."""


def connected_gradient(
    values: Sequence[Tensor], inputs: list[nn.Parameter], weights: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Return the gradient of the weighted values in each input, with its graph; zeros where they do not depend on it.

    Raises:
        FlatlibError: If they depend on none: the curvature would be zero, and most likely the model computes with other
            parameters than those that are measured.
    """
    gradient: Sequence[Tensor | None] = [None]
    if any(value.requires_grad for value in values):
        gradient = torch.autograd.grad(values, inputs, weights, create_graph=True, allow_unused=True)
    if all(g is None for g in gradient):
        raise FlatlibError("the loss does not depend on the parameters that are measured: there is no curvature")
    return [torch.zeros_like(p) if g is None else g for p, g in zip(inputs, gradient, strict=True)]


def require_own_graph(gradient: Iterable[Tensor], foreign: set[int]) -> None:
    """Check the operations of a gradient's graph.

    Args:
        gradient: Tensors with their graph.
        foreign: Identities of parameters that must not be in it.

    Raises:
        FlatlibError: If an operation cannot be differentiated, or a foreign parameter is used.
    """
    waiting = [g.grad_fn for g in gradient if g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() in UNDIFFERENTIABLE:
            raise FlatlibError(
                f"an operation of the model or loss has no second derivative ({_reason(node)}): there is no Hessian "
                "unless it is written with other PyTorch functions"
            )
        if id(getattr(node, "variable", None)) in foreign:
            raise FlatlibError("the model or loss uses parameters of the model that it keeps outside of its modules")
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following


def _reason(node: Any) -> str:
    """Return what a node that raises an error would say."""
    try:
        node(None)
    except (RuntimeError, TypeError) as error:  # the latter of a node with several inputs
        return str(error).splitlines()[0] if isinstance(error, RuntimeError) else node.name()
    return node.name()


def require_symmetry(difference: float, scale: float, noise: float) -> None:
    r"""Raise a ``FlatlibError`` if a difference such as $|u^\top C v - v^\top C u|$ exceeds both ``ASYMMETRY`` of the
    matrix's scale and the noise that rounding gives a zero matrix, or is not finite."""
    if not math.isfinite(difference):
        raise NotFinite("a product is not finite: the curvature is not defined")
    if difference > ASYMMETRY * scale + noise:
        raise FlatlibError(
            f"the products are not those of a symmetric matrix (off by {difference / scale:.0e} of its size): an "
            "operation of the model or loss has a second derivative that is wrong"
        )


def require_symmetric(matrix: Tensor, noise: float) -> None:
    r"""Raise a ``FlatlibError`` if a small matrix, such as $V^\top C V$, is not symmetric; noise is per column."""
    require_symmetry(float((matrix - matrix.T).norm()), float(matrix.norm()), len(matrix) * noise)
