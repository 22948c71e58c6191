"""Eigenvalues, sums over the spectrum and its density, as flat dictionaries of numbers with their errors."""

from typing import Any

from flatlib.curvature import Eigenvalues, Estimate, density, frobenius, top_eigenvalues, trace
from flatlib.errors import NotDefined
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.performance import Numbers
from flatlib.sharpness import between_iterates


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
        top = top_eigenvalues(checkpoint.operator, start=start, **search_options(checkpoint))
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
    largest = between_iterates(model, checkpoint.after(), loss, examples, **search_options(checkpoint))
    return columns("between_iterates", largest, "residual", "products", "converged")


def search_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options of a search for eigenvalues."""
    return {"engine": checkpoint.engine, "tol": checkpoint.tolerance, "seed": checkpoint.seed}
