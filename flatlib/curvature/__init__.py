"""Curvature of the training loss: its matrices as operators, and what is computed from their products."""

from flatlib.curvature.operators.empirical_risk import pairs
from flatlib.curvature.operators.gauss_newton import GaussNewtonOperator
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.density import Density, density
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.frobenius import FrobeniusEstimate, frobenius
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.curvature.spectrum.per_layer import per_layer
from flatlib.curvature.spectrum.preconditioned import (
    PreconditionedOperator,
    adam_preconditioner,
    adam_stability_threshold,
    preconditioned_eigenvalue,
)
from flatlib.curvature.spectrum.stability import stability_threshold
from flatlib.curvature.trace.hutchinson import Estimate
from flatlib.curvature.trace.trace import trace

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
