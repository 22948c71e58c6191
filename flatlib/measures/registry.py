"""The measures by name, each a function from a checkpoint to a flat dictionary of numbers.

A measure that is an estimate brings its companions: `lambda_max` comes with its residual, the products it took and
whether it converged.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from flatlib.curvature import (
    HessianOperator,
    adam_preconditioner,
    preconditioned_eigenvalue,
    top_eigenvalues,
    trace,
)
from flatlib.errors import NotDefined, explained
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.curvature import (
    columns,
    eigenvalue_columns,
    hessian_density,
    hessian_frobenius,
    hessian_trace,
    lambda_max,
    lambda_max_between_iterates,
    search_options,
)
from flatlib.measures.jacobian import both_jacobians, bound, jacobian_of
from flatlib.measures.performance import Numbers, performance, plain_cross_entropy, train_loss
from flatlib.sharpness import (
    adaptive_sharpness,
    average_adaptive_sharpness,
    batch_sharpness,
    critical_sharpness,
    input_lambda_max,
    keskar_sharpness,
    margin,
    minimum_sharpness,
    sam_sharpness,
)

GAP = "frank_wolfe_gap"


def measure(names: Iterable[str], checkpoint: Checkpoint, *, keep: bool = False) -> Numbers:
    """Take the measures with these names of one checkpoint, which share what several of them need.

    Args:
        names: Names of measures, keys of `REGISTRY`.
        checkpoint: The network and the examples it is measured on.
        keep: Leave what is shared on the checkpoint for a further call, until `Checkpoint.forget`; by default a graph
            is dropped after the last measure that uses it, and everything at the end.

    Returns:
        All numbers in one flat dictionary; None, without companions, for a measure that is not defined.

    Raises:
        FlatlibError: If a measure refuses the network; errors of PyTorch and of the model's own code become one too.

    >>> from flatlib.measures import Checkpoint
    >>> model = torch.nn.Linear(2, 2)
    >>> checkpoint = Checkpoint(model=model, examples=(torch.eye(2), torch.tensor([0, 1])))
    >>> sorted(measure(["trace"], checkpoint))
    ['trace', 'trace_exact', 'trace_standard_error']
    """
    numbers: Numbers = {}
    waiting = list(names)
    try:
        while waiting:
            numbers |= measure_one(waiting.pop(0), checkpoint)
            if not keep and not MULTIPLYING.intersection(waiting):
                checkpoint.release()
    finally:
        if not keep:
            checkpoint.forget()
    return numbers


def measure_one(name: str, checkpoint: Checkpoint) -> Numbers:
    """Return the numbers of one measure, with its version where it is not the first one and the value not exact."""
    try:
        with explained(f"{name} of a {type(checkpoint.model).__name__}"):
            found = REGISTRY[name](checkpoint)
    except NotDefined:
        return {name: None}
    exact = found.get(f"{name}_standard_error") == 0
    return found if exact or name not in VERSIONS else found | {f"{name}_version": VERSIONS[name]}


def adaptive_columns(name: str, checkpoint: Checkpoint, **options: Any) -> Numbers:
    """Return the adaptive sharpness with these options, its alignment and its gap."""
    around = checkpoint.normalized if options.get("normalize_logits") else checkpoint.around
    found = adaptive_sharpness(*checkpoint.subject, around=around, seed=checkpoint.seed, **options)
    return columns(name, found, "alignment", GAP)


def average_rise(checkpoint: Checkpoint) -> Numbers:
    """Return the average-case adaptive sharpness over normal perturbations, with its error."""
    mean = average_adaptive_sharpness(*checkpoint.subject, around=checkpoint.around, seed=checkpoint.seed)
    return columns("average_adaptive_sharpness", mean, "standard_error")


def batch_sharpness_of_training(checkpoint: Checkpoint) -> Numbers:
    """Return the batch sharpness at the batch size of the training, drawn from the measured images."""
    size, measured = checkpoint.batch_size, checkpoint.operator.examples
    if size is None or size > measured:
        raise NotDefined(f"batch_sharpness needs a batch size of at most the {measured} measured images, not {size}")
    found = batch_sharpness(*checkpoint.subject, batch_size=size, seed=checkpoint.seed, operator=checkpoint.operator)
    return columns("batch_sharpness", found, "standard_error", "exact")


def critical_sharpness_of_gradient(checkpoint: Checkpoint) -> Numbers:
    """Return the critical sharpness along the gradient over the measured images, with its error."""
    found = critical_sharpness(*checkpoint.subject, tolerance=checkpoint.tolerance, around=checkpoint.around)
    return columns("critical_sharpness", found, "error")


def weight_norm(checkpoint: Checkpoint) -> Numbers:
    """Return the Euclidean norm of all trainable parameters."""
    squares = [p.detach().double().square().sum() for p in checkpoint.model.parameters() if p.requires_grad]
    return {"weight_norm": float(torch.stack(squares).sum().sqrt())}


def margin_quantiles(checkpoint: Checkpoint) -> Numbers:
    """Return the median and the 10 % quantile of the measured images' distances to the decision boundary."""
    quantiles = margin(checkpoint.model, checkpoint.examples).quantiles
    return {"margin": quantiles[0.5], "margin_low": quantiles[0.1]}


def input_curvature(checkpoint: Checkpoint) -> Numbers:
    """Return the largest eigenvalue of the loss's Hessian in an image, its maximum over images, and their mean."""
    found = input_lambda_max(
        *checkpoint.subject, tol=checkpoint.tolerance, seed=checkpoint.seed, operator=checkpoint.operator
    )
    return {
        "input_lambda_max": float(found.values.max()),
        "input_lambda_max_residual": float(found.residuals[found.values.argmax()]),
        "input_lambda_max_products": found.products,
        "input_lambda_max_converged": found.converged,
        "input_lambda_max_mean": float(found.values.mean()),
    }


def preconditioned_sharpness(checkpoint: Checkpoint) -> Numbers:
    """Return the largest eigenvalue of the Hessian preconditioned by Adam's state (Cohen et al. 2022)."""
    if checkpoint.optimizer is None:
        raise NotDefined("preconditioned_lambda_max needs Adam's state: this checkpoint has no optimizer")
    # In float64, since a preconditioner amplifies rounding.
    hessian = HessianOperator(*checkpoint.subject, batch_norm=checkpoint.batch_norm, dtype=torch.float64)
    preconditioner = adam_preconditioner(checkpoint.optimizer, checkpoint.model, hessian)
    found = preconditioned_eigenvalue(hessian, preconditioner, tol=checkpoint.tolerance, seed=checkpoint.seed)
    return eigenvalue_columns("preconditioned_lambda_max", found)


def _seeded(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"batch_norm": checkpoint.batch_norm, "seed": checkpoint.seed}


# The softmaxed model's largest Jacobian norm is that of MacDonald et al. 2023, Figure 1.
REGISTRY: dict[str, Callable[[Checkpoint], Numbers]] = {
    "performance": performance,
    "train_loss": train_loss,
    "lambda_max": lambda_max,
    "lambda_min": lambda c: eigenvalue_columns(
        "lambda_min", top_eigenvalues(c.operator, which="smallest", **search_options(c))
    ),
    "cross_entropy": plain_cross_entropy,
    "cross_entropy_lambda_max": lambda c: eigenvalue_columns(
        "cross_entropy_lambda_max", top_eigenvalues(replace(c, loss="cross_entropy").operator, **search_options(c))
    ),
    "preconditioned_lambda_max": preconditioned_sharpness,
    "gauss_newton_lambda_max": lambda c: eigenvalue_columns(
        "gauss_newton_lambda_max", top_eigenvalues(c.gauss_newton(), tol=c.tolerance, seed=c.seed)
    ),
    "empirical_fisher_lambda_max": lambda c: eigenvalue_columns(
        "empirical_fisher_lambda_max", top_eigenvalues(c.empirical_fisher, tol=c.tolerance, seed=c.seed)
    ),
    "empirical_fisher_trace": lambda c: columns(
        "empirical_fisher_trace", trace(c.empirical_fisher, seed=c.seed), "standard_error", "exact"
    ),
    "between_iterates": lambda_max_between_iterates,
    "batch_sharpness": batch_sharpness_of_training,
    "critical_sharpness": critical_sharpness_of_gradient,
    "trace": hessian_trace,
    "frobenius": hessian_frobenius,
    "density": hessian_density,
    "minimum_sharpness": lambda c: columns(
        "minimum_sharpness", minimum_sharpness(*c.subject, traces=c.traces, **_seeded(c)), "standard_error"
    ),
    "sam_sharpness": lambda c: columns("sam_sharpness", sam_sharpness(*c.subject, around=c.around)),
    "adaptive_sharpness": lambda c: adaptive_columns("adaptive_sharpness", c),
    "adaptive_sharpness_linf": lambda c: adaptive_columns("adaptive_sharpness_linf", c, norm="linf"),
    "normalized_adaptive_sharpness": lambda c: adaptive_columns(
        "normalized_adaptive_sharpness", c, normalize_logits=True
    ),
    "normalized_adaptive_sharpness_linf": lambda c: adaptive_columns(
        "normalized_adaptive_sharpness_linf", c, norm="linf", normalize_logits=True
    ),
    "average_adaptive_sharpness": average_rise,
    "keskar_sharpness": lambda c: columns(
        "keskar_sharpness", keskar_sharpness(*c.subject, around=c.around, seed=c.seed), "converged", GAP
    ),
    "gradient_norm": lambda c: {"gradient_norm": float(c.around.at_weights[1].norm())},
    "weight_norm": weight_norm,
    "margin": margin_quantiles,
    "input_lambda_max": input_curvature,
    "jacobian_norm": lambda c: jacobian_of("jacobian_norm", c, softmax=False),
    "softmax_jacobian_norm": lambda c: jacobian_of("softmax_jacobian_norm", c, softmax=True),
    "jacobian_norms": both_jacobians,
    "jacobian_lower_bound": bound,
}
# Versions of the estimators that are not the first one: recorded beside a value, except an exact one.
VERSIONS = dict.fromkeys(
    ("trace", "frobenius", "density", "minimum_sharpness", "adaptive_sharpness", "keskar_sharpness"), 2
)
MULTIPLYING = {  # measures that use the shared products
    *("lambda_max", "lambda_min", "preconditioned_lambda_max", "trace", "frobenius", "density"),
    *("empirical_fisher_lambda_max", "empirical_fisher_trace"),
}
