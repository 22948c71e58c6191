"""The measures by name, each a function from a checkpoint to a flat dictionary of numbers.

A measure that is an estimate brings its companions: `lambda_max` comes with its residual, the products it took and
whether it converged.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from flatlib.curvature import (
    Eigenvalues,
    EmpiricalFisherOperator,
    adam_preconditioner,
    density,
    frobenius,
    preconditioned_eigenvalue,
    top_eigenvalues,
    trace,
)
from flatlib.errors import NotDefined, explained
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.jacobian import both_jacobians, bound, jacobian_of
from flatlib.measures.performance import Numbers, performance, plain_cross_entropy, train_loss
from flatlib.sharpness import (
    adaptive_sharpness,
    average_adaptive_sharpness,
    batch_sharpness,
    between_iterates,
    critical_sharpness,
    input_lambda_max,
    keskar_sharpness,
    margin,
    minimum_sharpness,
    sam_sharpness,
)


def measure(names: Iterable[str], checkpoint: Checkpoint) -> Numbers:
    """Take the measures with these names of one checkpoint.

    Args:
        names: Names of measures, keys of `REGISTRY`.
        checkpoint: The network and the examples it is measured on.

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
    for name in names:
        try:
            with explained(f"{name} of a {type(checkpoint.model).__name__}"):
                numbers |= REGISTRY[name](checkpoint)
        except NotDefined:
            numbers[name] = None
    return numbers


def columns(name: str, estimate: Any, *companions: str) -> Numbers:
    """Return the value of an estimate under its name, and its companions under ``NAME_COMPANION``."""
    return {name: estimate.value} | {f"{name}_{companion}": getattr(estimate, companion) for companion in companions}


def eigenvalue_columns(name: str, top: Eigenvalues) -> Numbers:
    """Return the first eigenvalue, its residual ||Hv - lambda v||, the products it took and whether it converged."""
    return {
        name: float(top.values[0]),
        f"{name}_residual": float(top.residuals[0]),
        f"{name}_products": top.products,
        f"{name}_converged": top.converged,
    }


def lambda_max(checkpoint: Checkpoint) -> Numbers:
    """Return the largest eigenvalue of the Hessian, and keep its vector for the next search along the trajectory."""
    start = "random" if checkpoint.top_vector is None else checkpoint.top_vector
    top = top_eigenvalues(checkpoint.hessian(), start=start, **_search(checkpoint))
    checkpoint.top_vector = top.vectors[:, 0]
    return eigenvalue_columns("lambda_max", top)


def hessian_frobenius(checkpoint: Checkpoint) -> Numbers:
    """Return the Frobenius norm of the Hessian, and its square over the number of parameters (Granziol 2020)."""
    norm = frobenius(checkpoint.hessian(), seed=checkpoint.seed)
    return columns("frobenius", norm, "standard_error") | {"frobenius_per_parameter": norm.per_parameter.value}


def hessian_density(checkpoint: Checkpoint) -> Numbers:
    """Return the spectral density as 100 weighted nodes from one probe (Granziol 2020, appendix A).

    Columns ``density_node_00`` and ``density_weight_00`` to 99, fewer where the matrix has fewer eigenvalues.
    """
    spectrum = density(checkpoint.hessian(), seed=checkpoint.seed)
    numbers: Numbers = {}
    for i, (node, weight) in enumerate(zip(spectrum.nodes.tolist(), spectrum.weights.tolist(), strict=True)):
        numbers |= {f"density_node_{i:02}": node, f"density_weight_{i:02}": weight}
    return numbers


def empirical_fisher(checkpoint: Checkpoint) -> EmpiricalFisherOperator:
    """Return the empirical Fisher matrix over the measured examples."""
    return EmpiricalFisherOperator(*checkpoint.subject, batch_norm=checkpoint.batch_norm)


def lambda_max_between_iterates(checkpoint: Checkpoint) -> Numbers:
    """Return the largest eigenvalue at 8 points up to the next iterate, batch norm in train mode (Kaur et al. 2022)."""
    if checkpoint.after is None:
        raise NotDefined("between_iterates needs the network after one more step: this checkpoint has none")
    model, loss, examples = checkpoint.subject
    largest = between_iterates(model, checkpoint.after(), loss, examples, **_search(checkpoint))
    return columns("between_iterates", largest, "residual", "products", "converged")


def adaptive_columns(name: str, checkpoint: Checkpoint, **options: Any) -> Numbers:
    """Return the adaptive sharpness with these options, and its alignment."""
    return columns(name, adaptive_sharpness(*checkpoint.subject, **(options | _seeded(checkpoint))), "alignment")


def average_rise(checkpoint: Checkpoint) -> Numbers:
    """Return the average-case adaptive sharpness over normal perturbations, with its error."""
    mean = average_adaptive_sharpness(*checkpoint.subject, **_seeded(checkpoint))
    return columns("average_adaptive_sharpness", mean, "standard_error")


def batch_sharpness_of_training(checkpoint: Checkpoint) -> Numbers:
    """Return the batch sharpness at the batch size of the training, drawn from the measured images."""
    size, measured = checkpoint.batch_size, checkpoint.hessian().examples
    if size is None or size > measured:
        raise NotDefined(f"batch_sharpness needs a batch size of at most the {measured} measured images, not {size}")
    found = batch_sharpness(*checkpoint.subject, batch_size=size, **_seeded(checkpoint))
    return columns("batch_sharpness", found, "standard_error", "exact")


def critical_sharpness_of_gradient(checkpoint: Checkpoint) -> Numbers:
    """Return the critical sharpness along the gradient over the measured images, with its error."""
    found = critical_sharpness(*checkpoint.subject, tolerance=checkpoint.tolerance, batch_norm=checkpoint.batch_norm)
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
    found = input_lambda_max(*checkpoint.subject, tol=checkpoint.tolerance, **_seeded(checkpoint))
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
    hessian = checkpoint.hessian()
    preconditioner = adam_preconditioner(checkpoint.optimizer, checkpoint.model, hessian)
    found = preconditioned_eigenvalue(hessian, preconditioner, tol=checkpoint.tolerance, seed=checkpoint.seed)
    return eigenvalue_columns("preconditioned_lambda_max", found)


def _search(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"engine": checkpoint.engine, "tol": checkpoint.tolerance, "seed": checkpoint.seed}


def _seeded(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"batch_norm": checkpoint.batch_norm, "seed": checkpoint.seed}


# The softmaxed model's largest Jacobian norm is that of MacDonald et al. 2023, Figure 1.
REGISTRY: dict[str, Callable[[Checkpoint], Numbers]] = {
    "performance": performance,
    "train_loss": train_loss,
    "lambda_max": lambda_max,
    "lambda_min": lambda c: eigenvalue_columns(
        "lambda_min", top_eigenvalues(c.hessian(), which="smallest", **_search(c))
    ),
    "cross_entropy": plain_cross_entropy,
    "cross_entropy_lambda_max": lambda c: eigenvalue_columns(
        "cross_entropy_lambda_max", top_eigenvalues(replace(c, loss="cross_entropy").hessian(), **_search(c))
    ),
    "preconditioned_lambda_max": preconditioned_sharpness,
    "gauss_newton_lambda_max": lambda c: eigenvalue_columns(
        "gauss_newton_lambda_max", top_eigenvalues(c.gauss_newton(), tol=c.tolerance, seed=c.seed)
    ),
    "empirical_fisher_lambda_max": lambda c: eigenvalue_columns(
        "empirical_fisher_lambda_max", top_eigenvalues(empirical_fisher(c), tol=c.tolerance, seed=c.seed)
    ),
    "empirical_fisher_trace": lambda c: columns(
        "empirical_fisher_trace", trace(empirical_fisher(c), seed=c.seed), "standard_error", "exact"
    ),
    "between_iterates": lambda_max_between_iterates,
    "batch_sharpness": batch_sharpness_of_training,
    "critical_sharpness": critical_sharpness_of_gradient,
    "trace": lambda c: columns("trace", trace(c.hessian(), seed=c.seed), "standard_error", "exact"),
    "frobenius": hessian_frobenius,
    "density": hessian_density,
    "minimum_sharpness": lambda c: columns(
        "minimum_sharpness", minimum_sharpness(*c.subject, **_seeded(c)), "standard_error"
    ),
    "sam_sharpness": lambda c: columns("sam_sharpness", sam_sharpness(*c.subject, batch_norm=c.batch_norm)),
    "adaptive_sharpness": lambda c: adaptive_columns("adaptive_sharpness", c),
    "adaptive_sharpness_linf": lambda c: adaptive_columns("adaptive_sharpness_linf", c, norm="linf"),
    "normalized_adaptive_sharpness": lambda c: adaptive_columns(
        "normalized_adaptive_sharpness", c, normalize_logits=True
    ),
    "normalized_adaptive_sharpness_linf": lambda c: adaptive_columns(
        "normalized_adaptive_sharpness_linf", c, norm="linf", normalize_logits=True
    ),
    "average_adaptive_sharpness": average_rise,
    "keskar_sharpness": lambda c: columns("keskar_sharpness", keskar_sharpness(*c.subject, **_seeded(c)), "converged"),
    "gradient_norm": lambda c: {"gradient_norm": float(c.hessian().gradient().norm())},
    "weight_norm": weight_norm,
    "margin": margin_quantiles,
    "input_lambda_max": input_curvature,
    "jacobian_norm": lambda c: jacobian_of("jacobian_norm", c, softmax=False),
    "softmax_jacobian_norm": lambda c: jacobian_of("softmax_jacobian_norm", c, softmax=True),
    "jacobian_norms": both_jacobians,
    "jacobian_lower_bound": bound,
}
