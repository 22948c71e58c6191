"""The search for the ends of a spectrum by Lanczos: from a cheap start, on as few numbers as there are."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.input_subspace import reduced_operator
from flatlib.curvature.spectrum.lanczos import Lanczos

SIGNS = {"largest": 1, "smallest": -1}
LANCZOS_PRODUCTS = 200
"""Limit of the Lanczos engine; trained nets need 5-20 products for the largest eigenvalue at tol=1e-3."""
RANDOM_PART = 3.0
"""Length of the random part added to a warm start of length 1. Tuned on a digits net tracked through training: it
needs 8.6 products where a random start needs 11.8 and a part of 0.3 needs 7.9; from the second eigenvector, the worst
start, it missed the first in 3 of 100 cases (a random start in 1, a part of 0.3 in 57)."""

SUBSAMPLE = 0.1
FEWEST = 32
SUBSAMPLE_TOLERANCE = 0.1
SUBSAMPLE_PRODUCTS = 20
WORTH = 2.0
"""Part of the examples that a start is computed from and how many these must be; its residual and most products; how
many vectors of length n the part's graph must outweigh. Tuned on MLPs and CNNs, where 5-6 products of a tenth save 2-3
of the whole."""


@dataclass(frozen=True)
class Eigenvalues:
    """k eigenvalues at one end of the spectrum, or 2k for both ends.

    Attributes
    ----------
    values: (k,) float64 on the CPU; the largest descending, the smallest ascending; both: the k largest, then the
        k smallest.
    residuals: (k,) float64, ||Hv - value v|| for the unit vector v: within it of the value lies an eigenvalue. With the
        Lanczos engine not less than the rounding error that the products show, as an asymmetry of H (6e-6 of ||H|| for
        an MLP in float32, 3e-3 for a ResNet-18 on 5000 images).
    vectors: (n, k) unit columns in the operator's dtype and on its device.
    products: Hessian-vector products used, on all examples.
    converged: whether every residual is at most tol |value|, or at the rounding error of H.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    products: int
    converged: bool


class EigenvalueRequest(NamedTuple):
    """Which eigenvalues are searched for, and how well: arguments of `top_eigenvalues`.

    Attributes
    ----------
    ends: "largest", "smallest" or both, with `k` eigenvalues at each.
    """

    k: int
    ends: tuple[str, ...]
    tol: float
    max_products: int | None

    @property
    def signs(self) -> Tensor:
        """(2k,) or (k,), 1 for the largest and -1 for the smallest, in the order of `Eigenvalues.values`."""
        return torch.tensor([SIGNS[end] for end in self.ends for _ in range(self.k)])


def lanczos_eigenvalues(
    operator: CurvatureOperator,
    start: Tensor | str | None,
    generator: torch.Generator,
    wanted: EigenvalueRequest,
) -> Eigenvalues:
    """On the row space of the inputs where that is cheaper, unless the zeros outside it are among the wanted values."""
    narrow, spent = reduced_operator(operator), 0
    if narrow is not None and len(wanted.signs) <= narrow.operator.shape[0]:
        inside = narrow.into(start) if isinstance(start, Tensor) else start
        found = _search(narrow.operator, inside, generator, wanted)
        if (wanted.signs * found.values > 0).all():
            return replace(found, vectors=narrow.out_of(found.vectors))
        spent = found.products
    found = _search(operator, start, generator, wanted)
    return replace(found, products=found.products + spent)


def _search(
    operator: CurvatureOperator,
    start: Tensor | str | None,
    generator: torch.Generator,
    wanted: EigenvalueRequest,
) -> Eigenvalues:
    if start is None:
        start = subsampled_initial_vector(operator, wanted, generator)
    vector = initial_vector(operator, start, generator)
    return _iterate(operator, vector, generator, wanted)


def _iterate(
    operator: CurvatureOperator,
    start: Tensor,
    generator: torch.Generator,
    wanted: EigenvalueRequest,
) -> Eigenvalues:
    n = operator.shape[0]
    needed = min(n, len(wanted.signs))
    lanczos = Lanczos(operator.matvec, start, generator)
    converged = False
    while not converged and lanczos.steps < (wanted.max_products or LANCZOS_PRODUCTS):
        lanczos.step()
        if lanczos.steps < needed:
            continue
        values, residuals, vectors = lanczos.ritz()
        here = [i if end == "smallest" else lanczos.steps - 1 - i for end in wanted.ends for i in range(wanted.k)]
        bound = np.maximum(wanted.tol * np.abs(values[here]), lanczos.rounding)
        converged = bool(np.all(residuals[here] <= bound))
    require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
    columns = lanczos.basis.T @ torch.as_tensor(vectors[:, here]).to(lanczos.basis)
    return Eigenvalues(
        torch.as_tensor(values[here]),
        torch.as_tensor(residuals[here]),
        columns / torch.linalg.vector_norm(columns, dim=0),
        lanczos.steps,
        converged,
    )


def subsampled_initial_vector(
    operator: CurvatureOperator, wanted: EigenvalueRequest, generator: torch.Generator
) -> Tensor | None:
    """The sum of the wanted eigenvectors, roughly, of the Hessian of `SUBSAMPLE` of the examples; None where that would
    cost as much as it saves, because a product is then spent on vectors of length n rather than on examples."""
    n, examples = operator.shape[0], int(SUBSAMPLE * getattr(operator, "examples", 0))
    if examples < FEWEST or examples * operator.bytes_per_example < WORTH * n * operator.torch_dtype.itemsize:
        return None
    part = operator.subsampled(examples, generator)
    rough = wanted._replace(tol=SUBSAMPLE_TOLERANCE, max_products=min(n, SUBSAMPLE_PRODUCTS + 2 * wanted.k))
    found = lanczos_eigenvalues(part, "random", generator, rough)
    return found.vectors.sum(1)


def initial_vector(operator: CurvatureOperator, start: Tensor | str | None, generator: torch.Generator) -> Tensor:
    """A random unit vector, or the warm start plus `RANDOM_PART` of one; the same on every device."""
    noise = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    noise /= noise.norm()
    if not isinstance(start, Tensor):
        return noise.to(operator.device, operator.torch_dtype)
    warm = start.detach().to("cpu", torch.float64)
    length = warm.norm()
    warm = warm / length if length > 0 else warm
    return (warm + RANDOM_PART * noise).to(operator.device, operator.torch_dtype)
