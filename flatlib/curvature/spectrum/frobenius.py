"""The Frobenius norm of a curvature matrix: the root of the sum of its squared eigenvalues."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetric, require_symmetry
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.trace.hutchinson import Estimate, mean_over_probes, rademacher
from flatlib.errors import FlatlibError, NotFinite

PROBES = 70
DEFLATION = 30
"""Lanczos steps whose space is measured without probes; not tuned: with `PROBES` 100 products, as the trace has."""


@dataclass(frozen=True)
class FrobeniusEstimate(Estimate):
    r"""$\|C\|_F$, in units of the loss, and what it is the root of.

    Attributes
    ----------
    value, standard_error, products, exact: as in `Estimate`; the value is the root.
    squared: $\|C\|_F^2 = \sum \lambda^2$, unbiased; the root is biased by its error squared.
    per_parameter: $\|C\|_F^2 / n$, the mean squared eigenvalue, second moment of the spectral density. The "Frobenius
        norms" of Granziol 2020 fit only this: in its appendix one grows 5e6-fold, from 9.8e-12, while the spectral norm
        grows "nearly 1000"-fold.
    """

    squared: Estimate
    per_parameter: Estimate


def frobenius(
    operator: CurvatureOperator, *, probes: int = PROBES, seed: int = 0, basis: Tensor | None = None
) -> FrobeniusEstimate:
    r"""$\|C\|_F$, deflated: the few large eigenvalues, whose squares dominate, are measured, not sampled.

    With an orthonormal basis Q and $P = I - Q Q^\top$,
    $\|C\|_F^2 = \|Q^\top C Q\|_F^2 + 2 \|P C Q\|_F^2 + \|P C P\|_F^2$.
    The first two are known from $CQ$; the last is the mean of $\|P C P z\|^2$ over Rademacher vectors z.
    Lanczos gives Q, and T and beta with $CQ = QT + \beta q e_m^\top$, for one product a vector.

    A matrix of at most `DEFLATION + probes` rows is measured column by column instead, exactly.

    Parameters
    ----------
    operator: of the matrix $C$, (n, n).
    probes: of the last term, at least 2, fixed beforehand.
    seed: of the start vector and the probes, drawn from a generator of their own.
    basis: (n, m) independent columns to use as Q, such as `Eigenvalues.vectors`; by default `DEFLATION` Lanczos steps.

    Raises
    ------
    FlatlibError: for fewer than two probes, a basis of another shape, and a product that is not finite.
    """
    n = operator.shape[0]
    if probes < 2:
        raise FlatlibError(f"probes={probes} cannot give a standard error: at least 2 are needed")
    if basis is not None and (basis.ndim != 2 or len(basis) != n or not 1 <= basis.shape[1] <= n):
        raise FlatlibError(f"basis must be columns of {n} numbers, got the shape {tuple(basis.shape)}")
    if n <= DEFLATION + probes:
        return _root(Estimate(_square(operator.to_dense()), 0.0, n, True), n)
    generator = torch.Generator().manual_seed(seed)
    if basis is None:
        Q, known = _from_lanczos(operator, generator)
    else:
        Q, known = _from_basis(operator, basis)

    def outside(v: Tensor) -> Tensor:
        return v - Q @ (Q.T @ v)

    def sample(z: Tensor) -> Tensor:
        return outside(operator.matmat(outside(z))).double().square().sum(0)

    rest, error = mean_over_probes(operator, sample, probes, generator)
    return _root(Estimate(known + rest, error, Q.shape[1] + probes, False), n)


def _from_lanczos(operator: CurvatureOperator, generator: torch.Generator) -> tuple[Tensor, float]:
    start = rademacher(operator.shape[0], 1, generator)[:, 0].to(operator.device, operator.torch_dtype)
    lanczos = Lanczos(operator.matvec, start, generator)
    for _ in range(DEFLATION):
        lanczos.step()
    require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
    values, residuals, _ = lanczos.ritz()
    # The eigenvectors of T have unit last rows, so that the squared residuals sum to beta^2.
    return lanczos.basis.T, float((values**2).sum() + 2 * (residuals**2).sum())


def _from_basis(operator: CurvatureOperator, basis: Tensor) -> tuple[Tensor, float]:
    Q, _ = torch.linalg.qr(basis.detach().to(operator.device, operator.torch_dtype))
    CQ = operator.matmat(Q)
    projected = Q.T @ CQ
    require_symmetric(projected, operator.noise)
    return Q, 2 * _square(CQ) - _square(projected)


def _square(matrix: Tensor) -> float:
    square = float(matrix.double().square().sum())
    if not math.isfinite(square):
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return square


def _root(squared: Estimate, n: int) -> FrobeniusEstimate:
    value = math.sqrt(squared.value)
    error = squared.standard_error / (2 * value) if value > 0 else 0.0
    per_parameter = Estimate(squared.value / n, squared.standard_error / n, squared.products, squared.exact)
    return FrobeniusEstimate(value, error, squared.products, squared.exact, squared, per_parameter)
