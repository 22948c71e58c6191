"""Trace of a curvature matrix, exact or by Hutchinson's estimator, and means over random probes with their errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.curvature.traces.exact import exact_traces
from flatlib.errors import FlatlibError, NotFinite

PROBES = 100  # a standard error of 1 to 5 % on trained nets, which need 131 to 2576 probes for 1 %
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


def trace(operator: CurvatureOperator, *, probes: int | None = None, seed: int = 0) -> Estimate:
    r"""Compute $\mathrm{tr}\, C$ of a Hessian or Gauss-Newton operator.

    Without ``probes`` it is exact, and uses no product, where that is proved to be possible: piecewise linear networks
    of linear layers, convolutions and batch norm with running statistics, and the Gauss-Newton matrix of these layers
    with any activation. Everywhere else, and whenever ``probes`` is given, it is Hutchinson's estimate
    $\frac1m \sum_j z_j^\top C z_j$ over m Rademacher vectors (Hutchinson 1990), m fixed beforehand.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> trace(H)  # H is the unit matrix
    Estimate(value=2.0, standard_error=0.0, products=0, exact=True)

    Args:
        operator: Matrix $C$, (n, n).
        probes: Probes of Hutchinson's estimate, at least 2; by default the exact trace, or 100 where there is none.
        seed: Seed of the probes.

    Raises:
        FlatlibError: If there are fewer than two probes, or a loss, gradient or product is not finite.
    """
    if probes is None:
        traces = exact_traces(operator)
        if traces is not None:
            return Estimate(sum(traces.values()), 0.0, 0, True)
        probes = PROBES

    def sample(z: Tensor) -> Tensor:
        quadratic = z.double().T @ operator.matmat(z).double()
        require_symmetric(quadratic, operator.shape[0] * operator.noise)
        return quadratic.diagonal()

    value, error = mean_over_probes(operator, sample, probes, torch.Generator().manual_seed(seed))
    return Estimate(value, error, probes, False)


def rademacher(n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return (n, k) independent signs, float64; the same on every device and in whatever groups they are drawn."""
    signs = torch.stack([torch.randint(2, (n,), generator=generator) for _ in range(k)], 1)
    return 2.0 * signs.double() - 1.0


def mean_over_probes(
    operator: CurvatureOperator, sample: Callable[[Tensor], Tensor], probes: int, generator: torch.Generator
) -> tuple[float, float]:
    """Return mean and standard error of ``sample(z)``, which maps (n, k) to k numbers, over Rademacher vectors z.

    The number of probes is fixed beforehand: stopping when the mean looks settled biases it, and hides its error.
    """
    if probes < 2:
        raise FlatlibError(f"probes={probes} cannot give a standard error: at least 2 are needed")
    n = operator.shape[0]
    samples = []
    for first in range(0, probes, PROBES_AT_ONCE):
        z = rademacher(n, min(PROBES_AT_ONCE, probes - first), generator)
        samples.append(sample(z.to(operator.device, operator.torch_dtype)).double().cpu())
    values = torch.cat(samples)
    if not torch.isfinite(values).all():
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return float(values.mean()), float(values.std()) / math.sqrt(probes)
