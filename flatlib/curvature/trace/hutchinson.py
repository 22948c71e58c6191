"""A number with its error, and the means over random probes that have one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.errors import FlatlibError, NotFinite

PROBES_AT_ONCE = 8
"""Columns of one `matmat`, which rebuilds a chunk's graph once for all; each takes two vectors of memory."""


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Attributes
    ----------
    value: in units of the loss, squared loss for a square.
    standard_error: of the mean over probes, in the units of the value; 0 if exact.
    products: Hessian-vector products used.
    exact: whether the value has no error but rounding.
    """

    value: float
    standard_error: float
    products: int
    exact: bool


def rademacher(n: int, k: int, generator: torch.Generator) -> Tensor:
    """(n, k) independent signs, float64; the same on every device and in whatever groups they are drawn."""
    signs = torch.stack([torch.randint(2, (n,), generator=generator) for _ in range(k)], 1)
    return 2.0 * signs.double() - 1.0


def mean_over_probes(
    operator: CurvatureOperator, sample: Callable[[Tensor], Tensor], probes: int, generator: torch.Generator
) -> tuple[float, float]:
    r"""Mean and standard error of `sample(z)` over Rademacher vectors z; it maps (n, k) to k numbers.

    The number of probes is fixed beforehand: stopping when the mean looks settled biases it, and hides its error.

    Raises `FlatlibError` for fewer than two probes, which have no standard error, and samples that are not finite.
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
