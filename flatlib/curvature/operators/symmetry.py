"""Whether products are those of a symmetric matrix: a second derivative that is missing or wrong breaks that first."""

from collections.abc import Iterable

from torch import Tensor

from flatlib.errors import FlatlibError

ASYMMETRY = 0.03
"""Of the matrix's own size. Rounding in float32 makes 6e-6 (MLP) to 3e-3 (ResNet-18 on 5000 images); terms that were
missing made 0.2 to 1. What lies between is part of an eigenvalue's residual."""
UNDIFFERENTIABLE = ("torch::autograd::Error", "torch::autograd::NotImplemented")
"""What autograd puts into a graph in the place of a derivative that does not exist. It raises only when it is passed,
and it is not passed where it is the last node on its way: the derivative is then silently zero."""


def require_second_derivatives(gradient: Iterable[Tensor]) -> None:
    """Raise a `FlatlibError` if an operation in the graph of the gradient has no derivative of its own."""
    waiting = [g.grad_fn for g in gradient if g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() in UNDIFFERENTIABLE:
            raise FlatlibError("an operation of the model or loss has no second derivative: there is no Hessian")
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following


def require_symmetry(difference: float, scale: float, noise: float) -> None:
    r"""Raise a `FlatlibError` if a difference such as $|u^\top C v - v^\top C u|$ is small neither beside its parts nor
    beside what rounding makes of a matrix that is zero."""
    if difference > ASYMMETRY * scale + noise:
        raise FlatlibError(
            f"the products are not those of a symmetric matrix (off by {difference / scale:.0e} of its size): an "
            "operation of the model or loss has a second derivative that is wrong"
        )


def require_symmetric(matrix: Tensor, noise: float) -> None:
    r"""The same of a small matrix, $V^\top C V$ for a few columns V, each with that noise."""
    require_symmetry(float((matrix - matrix.T).norm()), float(matrix.norm()), len(matrix) * noise)
