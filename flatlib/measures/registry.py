"""The measures by name, each a function from a checkpoint to a flat dictionary of numbers.

A measure that is an estimate brings its companions: `lambda_max` comes with its residual, the products it took and
whether it converged.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from flatlib.curvature import Eigenvalues, Estimate, density, frobenius, top_eigenvalues, trace
from flatlib.curvature.operators.empirical_risk import collect_batches
from flatlib.errors import NotDefined, explained
from flatlib.measures.checkpoint import HOLD_A_GRAPH, Checkpoint
from flatlib.measures.performance import Numbers, performance, train_loss
from flatlib.sharpness import (
    adaptive_sharpness,
    between_iterates,
    jacobian_norm,
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
                checkpoint.forget(*HOLD_A_GRAPH)
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
    if checkpoint.engine == "lanczos" and start == "random":
        top, _ = checkpoint.search
    else:
        top = top_eigenvalues(checkpoint.operator, start=start, **_search(checkpoint))
    checkpoint.top_vector = top.vectors[:, 0]
    return eigenvalue_columns("lambda_max", top)


def hessian_frobenius(checkpoint: Checkpoint) -> Numbers:
    """Return the Frobenius norm of the Hessian, and its square over the number of parameters (Granziol 2020)."""
    norm = frobenius(checkpoint.operator, seed=checkpoint.seed, deflation=checkpoint.deflation)
    return columns("frobenius", norm, "standard_error") | {"frobenius_per_parameter": norm.per_parameter.value}


def hessian_trace(checkpoint: Checkpoint) -> Numbers:
    """Return the trace of the Hessian, exact where that is possible, and its error."""
    if checkpoint.traces is not None:
        found = Estimate(sum(checkpoint.traces.values()), 0.0, 0, True)
    else:
        found = trace(checkpoint.operator, seed=checkpoint.seed, deflation=checkpoint.deflation)
    return columns("trace", found, "standard_error", "exact")


def hessian_density(checkpoint: Checkpoint) -> Numbers:
    """Return the spectral density as weighted nodes, with the relative error of the root of its second moment.

    Columns ``density_node_00``, ``density_weight_00`` and so on: one for each step of the search for the largest
    eigenvalue, ten for each probe of what that leaves.
    """
    spectrum = density(checkpoint.operator, seed=checkpoint.seed, deflation=checkpoint.search[1])
    numbers: Numbers = {"density_relative_error": spectrum.relative_error}
    for i, (node, weight) in enumerate(zip(spectrum.nodes.tolist(), spectrum.weights.tolist(), strict=True)):
        numbers |= {f"density_node_{i:02}": node, f"density_weight_{i:02}": weight}
    return numbers


def lambda_max_between_iterates(checkpoint: Checkpoint) -> Numbers:
    """Return the largest eigenvalue at 8 points up to the next iterate, batch norm in train mode (Kaur et al. 2022)."""
    if checkpoint.after is None:
        raise NotDefined("between_iterates needs the network after one more step: this checkpoint has none")
    model, loss, examples = checkpoint.subject
    largest = between_iterates(model, checkpoint.after(), loss, examples, **_search(checkpoint))
    return columns("between_iterates", largest, "residual", "products", "converged")


def weight_norm(checkpoint: Checkpoint) -> Numbers:
    """Return the Euclidean norm of all trainable parameters."""
    squares = [p.detach().double().square().sum() for p in checkpoint.model.parameters() if p.requires_grad]
    return {"weight_norm": float(torch.stack(squares).sum().sqrt())}


def margin_quantiles(checkpoint: Checkpoint) -> Numbers:
    """Return the median and the 10 % quantile of the measured images' distances to the decision boundary."""
    quantiles = margin(checkpoint.model, checkpoint.examples).quantiles
    return {"margin": quantiles[0.5], "margin_low": quantiles[0.1]}


def jacobian_norms(name: str, checkpoint: Checkpoint, *, softmax: bool) -> Numbers:
    """Return the spectral norm of the input-output Jacobian over the measured images, its largest and its mean."""
    images, *_ = collect_batches(checkpoint.examples)
    norms = jacobian_norm(checkpoint.model, images, softmax=softmax)
    return {name: float(norms.max()), f"{name}_mean": float(norms.mean())}


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
        "lambda_min", top_eigenvalues(c.operator, which="smallest", **_search(c))
    ),
    "gauss_newton_lambda_max": lambda c: eigenvalue_columns(
        "gauss_newton_lambda_max", top_eigenvalues(c.gauss_newton(), tol=c.tolerance, seed=c.seed)
    ),
    "between_iterates": lambda_max_between_iterates,
    "trace": hessian_trace,
    "frobenius": hessian_frobenius,
    "density": hessian_density,
    "minimum_sharpness": lambda c: columns(
        "minimum_sharpness", minimum_sharpness(*c.subject, traces=c.traces, **_seeded(c)), "standard_error"
    ),
    "sam_sharpness": lambda c: columns("sam_sharpness", sam_sharpness(*c.subject, around=c.around)),
    "adaptive_sharpness": lambda c: columns(
        "adaptive_sharpness", adaptive_sharpness(*c.subject, around=c.around, seed=c.seed), "alignment", GAP
    ),
    "keskar_sharpness": lambda c: columns(
        "keskar_sharpness", keskar_sharpness(*c.subject, around=c.around, seed=c.seed), "converged", GAP
    ),
    "gradient_norm": lambda c: {"gradient_norm": float(c.around.at_weights[1].norm())},
    "weight_norm": weight_norm,
    "margin": margin_quantiles,
    "jacobian_norm": lambda c: jacobian_norms("jacobian_norm", c, softmax=False),
    "softmax_jacobian_norm": lambda c: jacobian_norms("softmax_jacobian_norm", c, softmax=True),
}
# Versions of the estimators that are not the first one: recorded beside a value, except an exact one.
VERSIONS = dict.fromkeys(
    ("trace", "frobenius", "density", "minimum_sharpness", "adaptive_sharpness", "keskar_sharpness"), 2
)
MULTIPLYING = {"lambda_max", "lambda_min", "trace", "frobenius", "density"}  # measures that use the shared products
