"""Diagonal of a curvature matrix, exact or estimated with an error for every entry."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.curvature.traces.exact import DIAGONAL, exact_sums
from flatlib.curvature.traces.hutchinson import PROBES_AT_ONCE, rademacher
from flatlib.errors import FlatlibError, NotFinite

PROBES = 100  # of an estimate; not tuned


@dataclass(frozen=True)
class Diagonal:
    """Diagonal of a curvature matrix, in units of the loss per squared parameter.

    Attributes:
        values: (n,) float64, in the order of the operator's ``parameters``, on its device.
        standard_errors: (n,) float64, of the mean over probes, entry by entry; 0 if exact.
        products: Hessian-vector products used.
        exact: Whether the values have no error but rounding.
    """

    values: Tensor
    standard_errors: Tensor
    products: int
    exact: bool


def diagonal(operator: CurvatureOperator, *, probes: int | None = None, seed: int = 0) -> Diagonal:
    r"""Compute the diagonal of a Hessian, Gauss-Newton or Fisher operator.

    Without ``probes`` it is exact wherever the trace is (``trace``), and for a matrix of at most 100 rows, which is
    read column by column. Everywhere else, and whenever ``probes`` is given, it is the mean of $z_j \odot C z_j$ over m
    Rademacher vectors, m fixed beforehand (Bekas et al. 2007, "An estimator for the diagonal of a matrix", where the
    denominator $\sum_j z_j \odot z_j$ is m). The variance of an entry is the sum of the squares in its row, itself
    excluded: small entries beside large ones are known to no digit, as their standard errors show.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> diagonal(H).values.tolist()  # of the weights and the bias
    [1.0, 1.0, 2.0]

    Args:
        operator: Matrix $C$, (n, n).
        probes: Probes of the estimate, at least 2; by default the exact diagonal, or 100 where there is none.
        seed: Seed of the probes.

    Raises:
        FlatlibError: If there are fewer than two probes, or a loss, gradient or product is not finite.
    """
    n = operator.shape[0]
    if probes is None:
        blocks = exact_sums(operator, DIAGONAL)
        if blocks is not None:
            whole = [blocks[name].expand(p.shape).flatten() for name, p in operator.parameters.items()]
            return _exact(torch.cat(whole), 0)
        if n <= PROBES:
            return _exact(_finite(operator.to_dense().diagonal().double()), n)
        probes = PROBES
    if probes < 2:
        raise FlatlibError(f"probes={probes} cannot give a standard error: at least 2 are needed")
    values, errors = _mean_over_probes(operator, probes, torch.Generator().manual_seed(seed))
    return Diagonal(values, errors, probes, False)


def _exact(values: Tensor, products: int) -> Diagonal:
    return Diagonal(values, torch.zeros_like(values), products, True)


def _mean_over_probes(operator: CurvatureOperator, probes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the mean of z * Cz over Rademacher vectors z and its standard error, keeping no vector (Welford 1962)."""
    n = operator.shape[0]
    mean, squares = (torch.zeros(n, dtype=torch.float64, device=operator.device) for _ in range(2))
    for first in range(0, probes, PROBES_AT_ONCE):
        z = rademacher(n, min(PROBES_AT_ONCE, probes - first), generator).to(operator.device, operator.torch_dtype)
        product = operator.matmat(z)
        require_symmetric(z.double().T @ product.double(), n * operator.noise)
        for count, sample in enumerate((z * product).double().T, start=first + 1):
            step = sample - mean
            mean += step / count
            squares += step * (sample - mean)
    return _finite(mean), (squares / (probes - 1)).sqrt() / math.sqrt(probes)


def _finite(values: Tensor) -> Tensor:
    if not torch.isfinite(values).all():
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return values
