"""Curvature of the training loss: its matrices as linear operators, and their eigenvalues, trace, norm and density."""

from flatlib.curvature.operators.examples import from_dict_batches
from flatlib.curvature.operators.fisher import EmpiricalFisherOperator, MonteCarloFisherOperator
from flatlib.curvature.operators.gauss_newton import GaussNewtonOperator
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.deflation import Deflation, krylov_deflation
from flatlib.curvature.spectrum.density import Density, density
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.eigenvalues_above import EigenvaluesAbove, eigenvalues_above
from flatlib.curvature.spectrum.frobenius import FrobeniusEstimate, frobenius
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.curvature.spectrum.per_layer import per_layer
from flatlib.curvature.spectrum.preconditioned import (
    PreconditionedOperator,
    adam_preconditioner,
    adam_stability_threshold,
    preconditioned_eigenvalue,
    stability_threshold,
)
from flatlib.curvature.traces.diagonal import Diagonal, diagonal
from flatlib.curvature.traces.hutchinson import Estimate, trace

__all__ = [  # noqa: RUF022 -- grouped by subject
    # operators
    "HessianOperator",
    "GaussNewtonOperator",
    "EmpiricalFisherOperator",
    "MonteCarloFisherOperator",
    "from_dict_batches",
    # spectrum
    "top_eigenvalues",
    "Eigenvalues",
    "eigenvalues_above",
    "EigenvaluesAbove",
    "density",
    "Density",
    # trace, diagonal and norm
    "trace",
    "Estimate",
    "diagonal",
    "Diagonal",
    "frobenius",
    "FrobeniusEstimate",
    "krylov_deflation",
    "Deflation",
    # layer by layer
    "per_layer",
    # stability of optimizers
    "stability_threshold",
    "adam_stability_threshold",
    "adam_preconditioner",
    "preconditioned_eigenvalue",
    "PreconditionedOperator",
]
