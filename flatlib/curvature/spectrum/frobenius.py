"""Frobenius norm of a curvature matrix: the root of the sum of its squared eigenvalues."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetric, require_symmetry
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.traces.hutchinson import Estimate, mean_over_probes, rademacher
from flatlib.errors import FlatlibError, NotFinite

PROBES = 70  # with DEFLATION 100 products, as for the trace; not tuned
DEFLATION = 30  # Lanczos steps whose space is measured without probes; not tuned


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
    operator: CurvatureOperator, *, probes: int = PROBES, seed: int = 0, basis: Tensor | None = None
) -> FrobeniusEstimate:
    r"""Estimate $\|C\|_F$ by deflation: the few large eigenvalues, whose squares dominate, are measured, not sampled.

    With an orthonormal basis Q and $P = I - Q Q^\top$,
    $\|C\|_F^2 = \|Q^\top C Q\|_F^2 + 2 \|P C Q\|_F^2 + \|P C P\|_F^2$.
    The first two terms follow from $CQ$; the last is the mean of $\|P C P z\|^2$ over Rademacher vectors z.
    Lanczos gives Q, and T and beta with $CQ = QT + \beta q e_m^\top$, for one product per vector. A matrix of at most
    ``DEFLATION + probes`` rows is measured column by column instead, exactly.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> round(frobenius(H).squared.value, 6)  # H is the unit matrix
    2.0

    Args:
        operator: Matrix $C$, (n, n).
        probes: Rademacher vectors for the last term, at least 2, fixed beforehand.
        seed: Seed of the start vector and the probes.
        basis: Independent columns (n, m) to use as Q, such as ``Eigenvalues.vectors``; by default 30 Lanczos steps.

    Raises:
        FlatlibError: If there are fewer than two probes, the basis has another shape, or a product is not finite.
    """
    n = operator.shape[0]
    if probes < 2:
        raise FlatlibError(f"probes={probes} cannot give a standard error: at least 2 are needed")
    if basis is not None and (basis.ndim != 2 or len(basis) != n or not 1 <= basis.shape[1] <= n):
        raise FlatlibError(f"basis must be columns of {n} numbers, got the shape {tuple(basis.shape)}")
    if n <= DEFLATION + probes:
        return _root(Estimate(_square(operator.to_dense()), 0.0, n, True), n)
    generator = torch.Generator().manual_seed(seed)
    Q, known = _from_lanczos(operator, generator) if basis is None else _from_basis(operator, basis)

    def deflate(v: Tensor) -> Tensor:
        return v - Q @ (Q.T @ v)

    def sample(z: Tensor) -> Tensor:
        return deflate(operator.matmat(deflate(z))).double().square().sum(0)

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
