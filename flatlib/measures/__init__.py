"""The registry of measures: a name, and a function from a checkpoint to a flat dictionary of numbers.

A configuration asks for measures by name. A measure that is an estimate brings its companions along: `lambda_max`
comes with its residual, the products it took and whether it converged.
"""

import functools
from collections.abc import Callable, Iterable

from flatlib.errors import NotDefined, explained
from flatlib.measures.checkpoint import Checkpoint, of_run
from flatlib.measures.performance import Numbers, evaluate, performance, train_loss
from flatlib.measures.sharpness import (
    adaptive_rise,
    box_rise,
    jacobian_norms,
    lambda_max_between,
    least_trace,
    margins,
    sam_rise,
    weight_norm,
)
from flatlib.measures.spectrum import (
    gauss_newton_lambda_max,
    gradient_norm,
    hessian_density,
    hessian_frobenius,
    hessian_trace,
    lambda_max,
    lambda_min,
)

__all__ = ["REGISTRY", "Checkpoint", "Numbers", "evaluate", "measure", "of_run"]

REGISTRY: dict[str, Callable[[Checkpoint], Numbers]] = {
    "performance": performance,
    "train_loss": train_loss,
    "lambda_max": lambda_max,
    "lambda_min": lambda_min,
    "gauss_newton_lambda_max": gauss_newton_lambda_max,
    "between_iterates": lambda_max_between,
    "trace": hessian_trace,
    "frobenius": hessian_frobenius,
    "density": hessian_density,
    "minimum_sharpness": least_trace,
    "sam_sharpness": sam_rise,
    "adaptive_sharpness": adaptive_rise,
    "keskar_sharpness": box_rise,
    "gradient_norm": gradient_norm,
    "weight_norm": weight_norm,
    "margin": margins,
    "jacobian_norm": functools.partial(jacobian_norms, softmax=False),
    "softmax_jacobian_norm": functools.partial(jacobian_norms, softmax=True),
}
"""Every measure by name, a function from a checkpoint to its numbers."""


def measure(names: Iterable[str], checkpoint: Checkpoint) -> Numbers:
    """All measures with these names, of one checkpoint, in one flat dictionary.

    A measure that is not defined for this network is None under its name, without companions.

    Args:
        names: of measures, keys of `REGISTRY`.
        checkpoint: the network and what it is measured on.

    Raises:
        FlatlibError: for what a measure refuses; errors of PyTorch and of the model's own code become one as well.
    """
    numbers: Numbers = {}
    for name in names:
        try:
            with explained(f"{name} of a {type(checkpoint.model).__name__}"):
                numbers |= REGISTRY[name](checkpoint)
        except NotDefined:
            numbers[name] = None
    return numbers
