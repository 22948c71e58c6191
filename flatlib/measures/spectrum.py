"""Measures of the Hessian's spectrum, each with its error."""

from flatlib.curvature import Eigenvalues, density, frobenius, top_eigenvalues, trace
from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.performance import Numbers


def lambda_max(checkpoint: Checkpoint) -> Numbers:
    """The largest eigenvalue of the Hessian of the training loss, with its residual ||Hv - lambda v||."""
    found = top_eigenvalues(
        checkpoint.hessian(),
        engine=checkpoint.engine,
        tol=checkpoint.tolerance,
        start="random" if checkpoint.top_vector is None else checkpoint.top_vector,
        seed=checkpoint.seed,
    )
    checkpoint.top_vector = found.vectors[:, 0]
    return _eigenvalue("lambda_max", found)


def lambda_min(checkpoint: Checkpoint) -> Numbers:
    """The smallest eigenvalue of the Hessian: how far the loss bends downwards."""
    found = top_eigenvalues(
        checkpoint.hessian(),
        which="smallest",
        engine=checkpoint.engine,
        tol=checkpoint.tolerance,
        seed=checkpoint.seed,
    )
    return _eigenvalue("lambda_min", found)


def gauss_newton_lambda_max(checkpoint: Checkpoint) -> Numbers:
    """The largest eigenvalue of the Gauss-Newton matrix: the Hessian without the network's own curvature."""
    found = top_eigenvalues(checkpoint.gauss_newton(), tol=checkpoint.tolerance, seed=checkpoint.seed)
    return _eigenvalue("gauss_newton_lambda_max", found)


def _eigenvalue(name: str, found: Eigenvalues) -> Numbers:
    return {
        name: float(found.values[0]),
        f"{name}_residual": float(found.residuals[0]),
        f"{name}_products": int(found.products),
        f"{name}_converged": bool(found.converged),
    }


def hessian_trace(checkpoint: Checkpoint) -> Numbers:
    """The trace of the Hessian, exact where it can be."""
    found = trace(checkpoint.hessian(), seed=checkpoint.seed)
    return {"trace": found.value, "trace_standard_error": found.standard_error, "trace_exact": found.exact}


def hessian_frobenius(checkpoint: Checkpoint) -> Numbers:
    """The Frobenius norm of the Hessian, and its square over the number of parameters (Granziol 2020)."""
    found = frobenius(checkpoint.hessian(), seed=checkpoint.seed)
    return {
        "frobenius": found.value,
        "frobenius_standard_error": found.standard_error,
        "frobenius_per_parameter": found.per_parameter.value,
    }


def hessian_density(checkpoint: Checkpoint) -> Numbers:
    """The spectral density as 100 weighted nodes from one probe, Granziol 2020's setting (its appendix A): the
    columns ``density_node_00`` and ``density_weight_00`` to 99, fewer where the matrix has fewer eigenvalues."""
    found = density(checkpoint.hessian(), seed=checkpoint.seed)
    named: Numbers = {}
    for i, (node, weight) in enumerate(zip(found.nodes.tolist(), found.weights.tolist(), strict=True)):
        named |= {f"density_node_{i:02}": node, f"density_weight_{i:02}": weight}
    return named


def gradient_norm(checkpoint: Checkpoint) -> Numbers:
    """Euclidean norm of the gradient of the training loss over the measured images."""
    return {"gradient_norm": float(checkpoint.hessian().gradient().norm())}
