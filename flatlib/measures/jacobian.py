"""The input-output Jacobian over the measured images, and how large it must be, as flat dictionaries of numbers."""

from torch import Tensor

from flatlib.curvature.operators.examples import Examples
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.performance import Numbers
from flatlib.sharpness import jacobian_lower_bound, jacobian_norm, jacobian_norms


def jacobian_columns(name: str, norms: Tensor) -> Numbers:
    """Return the largest and the mean of the norms of all images."""
    return {name: float(norms.max()), f"{name}_mean": float(norms.mean())}


def jacobian_of(name: str, checkpoint: Checkpoint, *, softmax: bool) -> Numbers:
    """Return the spectral norm of the input-output Jacobian over the measured images, its largest and its mean."""
    images, _ = Examples.read(checkpoint.examples).require_pair()
    return jacobian_columns(name, jacobian_norm(checkpoint.model, images, softmax=softmax))


def both_jacobians(checkpoint: Checkpoint) -> Numbers:
    """Return the columns of `jacobian_norm` and of `softmax_jacobian_norm`, at little more than the cost of one."""
    images, _ = Examples.read(checkpoint.examples).require_pair()
    found = jacobian_norms(checkpoint.model, images)
    names = ("jacobian_norm", "softmax_jacobian_norm")
    return jacobian_columns(names[0], found.outputs) | jacobian_columns(names[1], found.probabilities)


def bound(checkpoint: Checkpoint) -> Numbers:
    """Return the term of Theorem 5.1 of MacDonald et al. 2023 over the measured images, with what it is made of."""
    found = jacobian_lower_bound(*checkpoint.subject)
    parts = {f"jacobian_lower_bound_{name}": value for name, value in found._asdict().items() if name != "value"}
    return {"jacobian_lower_bound": found.value} | parts
