"""Curvature of the training loss: its matrices as operators, and what is computed from their products."""

from flatlib.curvature.density import Density, density
from flatlib.curvature.eigenvalues import top_eigenvalues
from flatlib.curvature.estimate import Estimate
from flatlib.curvature.frobenius import FrobeniusEstimate, frobenius
from flatlib.curvature.gauss_newton import GaussNewtonOperator
from flatlib.curvature.hessian import HessianOperator
from flatlib.curvature.layers import per_layer
from flatlib.curvature.preconditioned import (
    PreconditionedOperator,
    adam_preconditioner,
    adam_stability_threshold,
    preconditioned_eigenvalue,
)
from flatlib.curvature.problem import pairs
from flatlib.curvature.search import Eigenvalues
from flatlib.curvature.stability import stability_threshold
from flatlib.curvature.trace import trace

__all__ = [  # noqa: RUF022 -- grouped by subject
    # the operators
    "HessianOperator",
    "GaussNewtonOperator",
    "pairs",
    # their spectrum
    "Eigenvalues",
    "top_eigenvalues",
    "Density",
    "density",
    # their norms
    "Estimate",
    "trace",
    "FrobeniusEstimate",
    "frobenius",
    # layer by layer
    "per_layer",
    # as an adaptive optimizer sees it
    "PreconditionedOperator",
    "adam_preconditioner",
    "adam_stability_threshold",
    "preconditioned_eigenvalue",
    "stability_threshold",
]
