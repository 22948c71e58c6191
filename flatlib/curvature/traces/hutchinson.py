"""Trace of a curvature matrix, exact or by Hutchinson's estimator, and means over random probes with their errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.deflation import Deflation, lanczos_deflation
from flatlib.curvature.traces.exact import exact_traces
from flatlib.errors import FlatlibError, NotFinite

RELATIVE_ERROR = 0.02  # default standard error relative to the estimate
PILOT = 8  # probes from whose spread the number of all is chosen
MOST_PROBES = 100  # beyond which a wanted error is missed rather than paid for
PROBES_AT_ONCE = 8  # columns of one ``matmat``, which share a chunk's graph; each takes two vectors of memory


@dataclass(frozen=True)
class Estimate:
    """Number with its standard error.

    Attributes:
        value: Number in units of the loss, squared loss for a square.
        standard_error: Error of the mean over probes, in the units of the value; 0 if exact.
        products: Hessian-vector products used.
        exact: Whether the value has no error but rounding.
    """

    value: float
    standard_error: float
    products: int
    exact: bool


def trace(
    operator: CurvatureOperator,
    *,
    relative_error: float = RELATIVE_ERROR,
    probes: int | None = None,
    seed: int = 0,
    deflation: Deflation | None = None,
) -> Estimate:
    r"""Compute $\mathrm{tr}\, C$ of a Hessian or Gauss-Newton operator.

    Without ``probes`` it is exact, and uses no product, where that is proved to be possible: piecewise linear networks
    of linear layers, convolutions and batch norm with running statistics, and the Gauss-Newton matrix of these layers
    with any activation. Everywhere else it is Hutchinson's estimate $\frac1m \sum_j z_j^\top C z_j$ over m Rademacher
    vectors (Hutchinson 1990), of the part $P C P$ alone that lies outside a deflated space (Meyer et al. 2021,
    "Hutch++"), and m is chosen for the wanted error (see ``mean_over_probes``). Given ``probes``, it is the plain
    estimate with that many.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> trace(H)  # H is the unit matrix
    Estimate(value=2.0, standard_error=0.0, products=0, exact=True)

    Args:
        operator: Matrix $C$, (n, n).
        relative_error: Wanted standard error over the trace; at most 100 probes are drawn for it.
        probes: Probes, at least 2; by default the exact trace, or as many as the wanted error needs.
        seed: Seed of the probes and of the deflated space.
        deflation: Space that is measured without probes; by default 14 Lanczos steps, and none if ``probes`` is given.

    Raises:
        FlatlibError: If there are fewer than two probes, the wanted error is not positive, or a loss, gradient or
            product is not finite.
    """
    require_precision(relative_error, probes)
    if probes is None:
        traces = exact_traces(operator)
        if traces is not None:
            return Estimate(sum(traces.values()), 0.0, 0, True)
        deflation = deflation or lanczos_deflation(operator, seed)
    matrix = deflation.operator if deflation else operator
    known, scale, used = (deflation.trace, deflation.size, deflation.products) if deflation else (0.0, 0.0, 0)

    def sample(z: Tensor) -> Tensor:
        z = deflation.project(z) if deflation else z
        quadratic = z.double().T @ matrix.matmat(z).double()
        size = float(quadratic.norm()) + scale * z.shape[1]
        noise = z.shape[1] * len(z) * matrix.noise
        require_symmetry(float((quadratic - quadratic.T).norm()), size, noise)
        return quadratic.diagonal()

    generator = torch.Generator().manual_seed(seed)
    rest, error, drawn = mean_over_probes(
        matrix, sample, generator, probes, lambda mean: relative_error * abs(known + mean)
    )
    rounding = (
        torch.finfo(matrix.torch_dtype).eps * scale * math.sqrt(matrix.shape[0])
    )  # where nothing is left to sample
    return Estimate(known + rest, max(error, rounding), used + drawn, False)


def rademacher(n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return (n, k) independent signs, float64; the same on every device and in whatever groups they are drawn."""
    signs = torch.stack([torch.randint(2, (n,), generator=generator) for _ in range(k)], 1)
    return 2.0 * signs.double() - 1.0


def require_precision(relative_error: float, probes: int | None) -> None:
    """Raise a ``FlatlibError`` for a relative error that is not positive, or too few probes for an error."""
    if not relative_error > 0:
        raise FlatlibError(f"relative_error={relative_error} must be positive")
    if probes is not None and probes < 2:
        raise FlatlibError(f"probes={probes} cannot give a standard error: at least 2 are needed")


def require_finite(number: float) -> float:
    """Return a number made from products; raise ``NotFinite`` if it is not finite."""
    if not math.isfinite(number):
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return number


def mean_over_probes(
    operator: CurvatureOperator,
    sample: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    probes: int | None,
    wanted: Callable[[float], float],
) -> tuple[float, float, int]:
    r"""Return mean and standard error of ``sample(z)`` over Rademacher vectors z, and their number.

    Without a number it follows Stein's two stages (1945): the spread $s_0$ of the first 8 samples fixes the number of
    all, $m = (c_8 s_0 / \text{wanted})^2$, from 8 to 100. Looking again after each probe would stop where the spread
    happens to look small. The error is $\max(c_8 s_0, c_m s_m) / \sqrt m$, $s_m$ the spread of all and $c_k$ the factor
    $t_{0.975,\, k-1} / 1.96$ for spreads of few samples, so that 1.96 standard errors cover as they do for a normal
    distribution: simulated on the spectra of trained networks, with and without deflation, on a flat one and on one
    with a single large eigenvalue, in 94 to 97 % of all cases.

    Args:
        operator: Matrix that gives length, dtype and device of the vectors.
        sample: Maps (n, k) to k numbers.
        generator: Draws the vectors.
        probes: Their number, if it is fixed beforehand; the error is then $s_m / \sqrt m$.
        wanted: Maps the mean of the first samples to the standard error to reach.
    """

    def draw(k: int) -> Tensor:
        groups = [min(PROBES_AT_ONCE, k - first) for first in range(0, k, PROBES_AT_ONCE)]
        zs = (
            rademacher(operator.shape[0], size, generator).to(operator.device, operator.torch_dtype) for size in groups
        )
        values = torch.cat([sample(z).double().cpu() for z in zs])
        require_finite(float(values.sum()))
        return values

    if probes is not None:
        values = draw(probes)
        return float(values.mean()), float(values.std()) / math.sqrt(probes), probes
    values = draw(PILOT)
    spread = small_sample_factor(PILOT) * float(values.std())
    affordable = wanted(float(values.mean())) * math.sqrt(MOST_PROBES)
    total = (
        MOST_PROBES if spread > affordable else max(PILOT, math.ceil(MOST_PROBES * (spread / (affordable or 1)) ** 2))
    )
    if total > PILOT:
        values = torch.cat([values, draw(total - PILOT)])
    spread = max(spread, small_sample_factor(total) * float(values.std()))
    return float(values.mean()), spread / math.sqrt(total), total


def small_sample_factor(n: int) -> float:
    """Return the quantile of Student's distribution with n - 1 degrees of freedom over the normal one, at 97.5 %."""
    from scipy.special import ndtri, stdtrit  # here, since it takes longer to import than the rest of this module

    return float(stdtrit(n - 1, 0.975) / ndtri(0.975))
