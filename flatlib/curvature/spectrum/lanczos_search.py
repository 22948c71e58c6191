"""Lanczos search for the ends of a spectrum, from a start vector computed on a subsample."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import SymmetricOperator, require_symmetry
from flatlib.curvature.spectrum.error_bounds import kato_temple
from flatlib.curvature.spectrum.input_subspace import reduced_operator
from flatlib.curvature.spectrum.lanczos import Lanczos

SIGNS = {"largest": 1, "smallest": -1}
MAX_PRODUCTS = 200  # default limit; trained nets need 5 to 20 products for the largest eigenvalue at tol=1e-3
# Norm of the random vector added to a warm start of norm 1. Tuned on a digits net tracked through training: 8.6
# products (a random start 11.8, a norm of 0.3 7.9); from the worst start, the second eigenvector, the first was missed
# in 3 of 100 cases (a random start 1, a norm of 0.3 57). In 1e5 dimensions, where a random vector has less of every
# eigenvector, it was missed in 28 of 100 cases and in all where the two are within 1 % (certify="end": 0 and 1).
RANDOM_PART = 3.0
# The start on a subsample is tuned on MLPs and CNNs, where 5 to 6 products of a tenth save 2 to 3 of the whole.
SUBSAMPLE_FRACTION = 0.1  # of the examples
MIN_SUBSAMPLE = 32  # examples; with fewer the start is random
SUBSAMPLE_TOLERANCE = 0.1  # relative residual
SUBSAMPLE_MAX_PRODUCTS = 20  # of the subsample, and two more per eigenvalue
MIN_COST_RATIO = 2.0  # memory of the subsample's graph over that of a vector, below which products cost no less


class KrylovSpace(NamedTuple):
    """Lanczos iteration of a search, and the operator that it ran on: the whole one, or one reduced to its inputs."""

    operator: SymmetricOperator
    lanczos: Lanczos


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenvalues at one end of the spectrum (k), or at both (2k), with their errors.

    Attributes:
        values: (k,) float64 on the CPU; the largest descending, the smallest ascending; for both ends the k largest,
            then the k smallest.
        residuals: (k,) float64, ||Hv - value v|| for the unit vector v: an eigenvalue lies within it of the value. With
            the Lanczos engine not below the rounding error that the products show as an asymmetry of H (6e-6 of ||H||
            for an MLP in float32, 3e-3 for a ResNet-18 on 5000 images).
        errors: (k,) float64, estimates of the distances to the nearest eigenvalue, at most the residuals r: r^2 over
            the gap to the other Ritz values. Too small where that gap holds an eigenvalue that is not seen yet.
        limits: (1,), or (2,) for both ends: with a probability of 95 % over the random part of the start, no eigenvalue
            exceeds the first (is below it, for the smallest), or is below the second. Infinite from PyHessian.
        vectors: (n, k) unit columns in the operator's dtype and on its device.
        products: Hessian-vector products used, on all examples.
        converged: Whether every residual is at most tol |value|, or at the rounding error of H; with ``certify="end"``
            also every distance from the outermost value to its limit.
        krylov: The search itself, if it was to be kept: it holds ``products`` vectors of length n.
    """

    values: Tensor
    residuals: Tensor
    errors: Tensor
    limits: Tensor
    vectors: Tensor
    products: int
    converged: bool
    krylov: KrylovSpace | None = field(default=None, repr=False)


class EigenvalueRequest(NamedTuple):
    """Arguments of ``top_eigenvalues``: k eigenvalues at each of the ends, "largest", "smallest" or both."""

    k: int
    ends: tuple[str, ...]
    tol: float
    max_products: int | None
    certify: str
    keep_krylov: bool = False

    @property
    def signs(self) -> Tensor:
        """Signs (k,) or (2k,), 1 for the largest and -1 for the smallest, in the order of ``Eigenvalues.values``."""
        return torch.tensor([SIGNS[end] for end in self.ends for _ in range(self.k)])


def lanczos_eigenvalues(
    operator: SymmetricOperator, start: Tensor | str | None, generator: torch.Generator, request: EigenvalueRequest
) -> Eigenvalues:
    """Compute the requested eigenvalues by Lanczos, in the subspace of the inputs where that is cheaper.

    If the zeros outside the subspace are among the requested eigenvalues, the search runs on the whole matrix.
    """
    if isinstance(operator, CurvatureOperator):
        operator.check_derivatives(products=True)  # once, for its subsamples and reductions as well
    reduced, used = reduced_operator(operator), 0
    if reduced is not None and len(request.signs) <= reduced.operator.shape[0]:
        inside = reduced.project(start) if isinstance(start, Tensor) else start
        found = _search(reduced.operator, inside, generator, request)
        if (request.signs * found.values > 0).all():
            return replace(found, vectors=reduced.lift(found.vectors))
        used = found.products
    found = _search(operator, start, generator, request)
    return replace(found, products=found.products + used)


def _search(
    operator: SymmetricOperator, start: Tensor | str | None, generator: torch.Generator, request: EigenvalueRequest
) -> Eigenvalues:
    if start is None and request.certify == "eigenvalue":
        start = subsampled_initial_vector(operator, request, generator)
    n = operator.shape[0]
    needed = min(n, len(request.signs))
    first = initial_vector(operator, start, generator)
    random_part = (RANDOM_PART if isinstance(start, Tensor) else 1.0) / float(first.norm())
    lanczos = Lanczos(operator.matvec, first, generator)
    converged = False
    while not converged and lanczos.steps < (request.max_products or MAX_PRODUCTS):
        lanczos.step()
        if lanczos.steps < needed:
            continue
        values, residuals, vectors = lanczos.ritz()
        here = [i if end == "smallest" else lanczos.steps - 1 - i for end in request.ends for i in range(request.k)]
        converged = _accepted(lanczos, request, random_part, values[here], residuals[here])
    require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
    columns = lanczos.basis.T @ torch.as_tensor(vectors[:, here]).to(lanczos.basis)
    return Eigenvalues(
        torch.as_tensor(values[here]),
        torch.as_tensor(residuals[here]),
        torch.as_tensor(np.maximum(kato_temple(values, residuals)[here], lanczos.floor)),
        torch.as_tensor(_limits(lanczos, request, random_part)),
        columns / torch.linalg.vector_norm(columns, dim=0),
        lanczos.steps,
        converged,
        KrylovSpace(operator, lanczos) if request.keep_krylov else None,
    )


def _accepted(
    lanczos: Lanczos, request: EigenvalueRequest, random_part: float, values: np.ndarray, residuals: np.ndarray
) -> bool:
    """Return whether the residuals of the requested values, and where requested the limits, are within tolerance."""
    bound = np.maximum(request.tol * np.abs(values), lanczos.rounding)
    if request.certify == "eigenvalue" or not np.all(residuals <= bound):
        return bool(np.all(residuals <= bound))
    outermost = slice(None, None, request.k)
    unseen = np.abs(_limits(lanczos, request, random_part) - values[outermost]) - lanczos.rounding
    return bool(np.all(unseen <= bound[outermost]))


def _limits(lanczos: Lanczos, request: EigenvalueRequest, random_part: float) -> np.ndarray:
    """Return the limits of the requested ends, see ``Eigenvalues``."""
    return np.array([lanczos.limit(SIGNS[end], random_part) for end in request.ends])


def subsampled_initial_vector(
    operator: SymmetricOperator, request: EigenvalueRequest, generator: torch.Generator
) -> Tensor | None:
    """Return the sum of the requested eigenvectors of a subsample's Hessian, or None where it costs what it saves."""
    if not isinstance(operator, CurvatureOperator):
        return None
    n, examples = operator.shape[0], int(SUBSAMPLE_FRACTION * operator.examples)
    vector_bytes = n * operator.torch_dtype.itemsize
    if examples < MIN_SUBSAMPLE or examples * operator.bytes_per_example < MIN_COST_RATIO * vector_bytes:
        return None
    part = operator.subsampled(examples, generator)
    if part is None:
        return None
    limit = min(n, SUBSAMPLE_MAX_PRODUCTS + 2 * request.k)
    rough = request._replace(tol=SUBSAMPLE_TOLERANCE, max_products=limit, keep_krylov=False)
    return lanczos_eigenvalues(part, "random", generator, rough).vectors.sum(1)


def initial_vector(operator: SymmetricOperator, start: Tensor | str | None, generator: torch.Generator) -> Tensor:
    """Return a random unit vector, or the warm start plus ``RANDOM_PART`` of one; the same on every device."""
    noise = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    noise /= noise.norm()
    if not isinstance(start, Tensor):
        return noise.to(operator.device, operator.torch_dtype)
    warm = start.detach().to("cpu", torch.float64)
    norm = warm.norm()
    warm = warm / norm if norm > 0 else warm
    return (warm + RANDOM_PART * noise).to(operator.device, operator.torch_dtype)
