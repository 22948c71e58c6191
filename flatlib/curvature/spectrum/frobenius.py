"""Frobenius norm of a curvature matrix: the root of the sum of its squared eigenvalues."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.spectrum.deflation import STEPS, Deflation, basis_deflation, lanczos_deflation
from flatlib.curvature.traces.hutchinson import (
    MOST_PROBES,
    RELATIVE_ERROR,
    Estimate,
    mean_over_probes,
    require_finite,
    require_precision,
)
from flatlib.errors import FlatlibError


@dataclass(frozen=True)
class FrobeniusEstimate(Estimate):
    r"""Frobenius norm $\|C\|_F$, in units of the loss, with its square.

    Attributes:
        value: The norm.
        standard_error: Its standard error.
        products: Hessian-vector products used.
        exact: Whether the value has no error but rounding.
        squared: $\|C\|_F^2 = \sum \lambda^2$, unbiased; its root, the value, is biased by its squared error.
        per_parameter: $\|C\|_F^2 / n$, the second moment of the spectral density. The "Frobenius norms" of Granziol
            2020 fit only this: in its appendix one grows 5e6-fold while the spectral norm grows "nearly 1000"-fold.
    """

    squared: Estimate
    per_parameter: Estimate


def frobenius(
    operator: CurvatureOperator,
    *,
    relative_error: float = RELATIVE_ERROR,
    probes: int | None = None,
    seed: int = 0,
    basis: Tensor | None = None,
    deflation: Deflation | None = None,
) -> FrobeniusEstimate:
    r"""Estimate $\|C\|_F$ by deflation: the few large eigenvalues, whose squares dominate, are measured, not sampled.

    With an orthonormal basis Q and $P = I - Q Q^\top$,
    $\|C\|_F^2 = \|Q^\top C Q\|_F^2 + 2 \|P C Q\|_F^2 + \|P C P\|_F^2$.
    The first two terms follow from $CQ$; the last is the mean of $\|P C P z\|^2$ over Rademacher vectors z, as many as
    the wanted error needs (see ``mean_over_probes``). Lanczos gives Q, and T and beta with
    $CQ = QT + \beta q e_m^\top$, for one product per vector. A matrix of few rows, no more than 14 and the probes
    allowed, is measured column by column instead, exactly.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> round(frobenius(H).squared.value, 6)  # H is the unit matrix
    2.0

    Args:
        operator: Matrix $C$, (n, n).
        relative_error: Wanted standard error over the norm; at most 100 probes are drawn for it.
        probes: Rademacher vectors for the last term, at least 2, instead of as many as the wanted error needs.
        seed: Seed of the start vector and the probes.
        basis: Independent columns (n, m) to use as Q, such as ``Eigenvalues.vectors``; by default 14 Lanczos steps.
        deflation: Q with what C does there, instead of a basis.

    Raises:
        FlatlibError: If there are fewer than two probes, the wanted error is not positive, the basis has another shape,
            or a product is not finite.
    """
    n = operator.shape[0]
    require_precision(relative_error, probes)
    if basis is not None and (basis.ndim != 2 or len(basis) != n or not 1 <= basis.shape[1] <= n):
        raise FlatlibError(f"basis must be columns of {n} numbers, got the shape {tuple(basis.shape)}")
    if n <= STEPS + (probes or MOST_PROBES):
        return _root(Estimate(require_finite(float(operator.to_dense().double().square().sum())), 0.0, n, True), n)
    if basis is not None:
        deflation = basis_deflation(operator, basis)
    deflation = deflation or lanczos_deflation(operator, seed)
    known = deflation.squared_norm

    def sample(z: Tensor) -> Tensor:
        inside = deflation.operator.matmat(deflation.project(z))
        return deflation.project(inside).double().square().sum(0)

    rest, error, drawn = mean_over_probes(
        deflation.operator,
        sample,
        torch.Generator().manual_seed(seed),
        probes,
        lambda mean: 2 * relative_error * (known + mean),  # of the square, so that the root has half of it
    )
    return _root(Estimate(known + rest, error, deflation.products + drawn, False), n)


def _root(squared: Estimate, n: int) -> FrobeniusEstimate:
    value = math.sqrt(squared.value)
    error = squared.standard_error / (2 * value) if value > 0 else 0.0
    per_parameter = Estimate(squared.value / n, squared.standard_error / n, squared.products, squared.exact)
    return FrobeniusEstimate(value, error, squared.products, squared.exact, squared, per_parameter)
