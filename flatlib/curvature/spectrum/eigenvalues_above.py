"""All eigenvalues above a threshold, such as the stability threshold of an optimizer."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.operators.symmetry import SymmetricOperator, require_symmetry
from flatlib.curvature.spectrum.input_subspace import reduced_operator
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.spectrum.lanczos_search import MAX_PRODUCTS, initial_vector
from flatlib.errors import FlatlibError

PRODUCTS_FOR_EACH = 20  # by which the limit of products grows with every eigenvalue found; not tuned


@dataclass(frozen=True)
class EigenvaluesAbove:
    """All eigenvalues found above a threshold, descending, with their errors; there may be none.

    Attributes:
        values: (c,) float64 on the CPU.
        residuals: (c,) float64, ||Hv - value v||, computed from the products with the final vectors.
        vectors: (n, c) orthonormal columns.
        products: Hessian-vector products used.
        converged: Whether every residual is at most tol |value|, or at the rounding error of H.
        complete: Whether, besides, no value is within its residual of the threshold, and a last search from a random
            start, among the vectors orthogonal to all found, ended with a largest eigenvalue below the threshold. Like
            every search it can miss one to which its start is nearly orthogonal.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    products: int
    converged: bool
    complete: bool

    @property
    def count(self) -> int:
        """Number of eigenvalues found."""
        return len(self.values)


def eigenvalues_above(
    operator: SymmetricOperator,
    threshold: float,
    *,
    tol: float = 1e-3,
    max_products: int | None = None,
    seed: int = 0,
) -> EigenvaluesAbove:
    r"""Compute all eigenvalues above a positive threshold, with their number and whether any may be missing.

    Lanczos runs until every Ritz value above the threshold has converged, and the first one below. What it found is
    taken out, $(I - VV^\top) C (I - VV^\top)$, and it starts again from a random vector, until nothing is found: so an
    eigenvalue of higher multiplicity is counted as often as it occurs. The last search is the check that none is
    missing. The final values and residuals are those of $V^\top C V$.

    >>> from flatlib.curvature import HessianOperator
    >>> H = torch.diag(torch.tensor([5.0, 5.0, 3.0, 1.0]))
    >>> data = (2 * H).sqrt(), torch.zeros(4, 1)  # of the loss w'Hw / 2
    >>> found = eigenvalues_above(HessianOperator(torch.nn.Linear(4, 1, bias=False), "mse", data), 2.0)
    >>> found.values.float(), found.count, found.complete
    (tensor([5.0000, 5.0000, 3.0000]), 3, True)

    Args:
        operator: Matrix (n, n): an operator of ``flatlib.curvature``.
        threshold: Positive number, such as ``stability_threshold(optimizer)``.
        tol: Largest residual relative to the value.
        max_products: Limit of the searches' products, beyond which ``complete`` is False; by default 200 and 20 more
            for every eigenvalue found.
        seed: Seed of the random vectors.

    Raises:
        FlatlibError: If an argument is out of range, or a product is not finite.
    """
    if not 0 < threshold < float("inf"):
        raise FlatlibError(f"threshold={threshold} must be a positive number")
    if not tol > 0:
        raise FlatlibError(f"tol={tol} must be positive")
    if max_products is not None and max_products < 1:
        raise FlatlibError(f"max_products={max_products} is not a positive number of products")
    reduced = reduced_operator(operator)
    if reduced is None:
        return _search(operator, threshold, tol, max_products, seed)
    found = _search(reduced.operator, threshold, tol, max_products, seed)
    return replace(found, vectors=reduced.lift(found.vectors))


class _Deflated:
    """The part of a matrix on the vectors orthogonal to the columns of V: symmetric, and zero on V."""

    def __init__(self, operator: SymmetricOperator, V: Tensor):
        self._operator, self._vectors = operator, V

    def project(self, v: Tensor) -> Tensor:
        return v - self._vectors @ (self._vectors.T @ v)

    def matvec(self, v: Tensor) -> Tensor:
        return self.project(self._operator.matvec(self.project(v)))


def _search(
    operator: SymmetricOperator,
    threshold: float,
    tol: float,
    max_products: int | None,
    seed: int,
) -> EigenvaluesAbove:
    generator = torch.Generator().manual_seed(seed)
    V = torch.empty(operator.shape[0], 0, dtype=operator.torch_dtype, device=operator.device)
    products, rounding, size, settled = 0, 0.0, 0.0, True
    while settled and V.shape[1] < len(V):
        most = (max_products or MAX_PRODUCTS + PRODUCTS_FOR_EACH * V.shape[1]) - products
        if most < 1:
            settled = False
            break
        deflated = _Deflated(operator, V)
        first = deflated.project(initial_vector(operator, None, generator))
        lanczos = Lanczos(deflated.matvec, first, generator)
        new, settled = _columns_above(lanczos, threshold, tol, most, 0 if max_products else PRODUCTS_FOR_EACH)
        products += lanczos.steps
        rounding, size = max(rounding, lanczos.rounding), max(size, lanczos.size)
        require_symmetry(lanczos.asymmetry, size, operator.noise)
        V = torch.linalg.qr(torch.cat([V, new], 1))[0]
        if new.shape[1] == 0:
            break
    values, residuals, V = _rayleigh_ritz(operator, V)
    residuals = residuals.clamp_min(rounding)
    converged = bool((residuals <= (tol * values).clamp_min(rounding)).all())
    complete = settled and converged and bool((values - residuals > threshold).all())
    above = values > threshold
    return EigenvaluesAbove(values[above], residuals[above], V[:, above], products + len(values), converged, complete)


def _columns_above(lanczos: Lanczos, threshold: float, tol: float, most: int, for_each: int) -> tuple[Tensor, bool]:
    """Return the Ritz vectors above the threshold, and whether they and the first one below, clear of it, converged."""
    settled, converged_to_rounding, count, n = False, False, 0, lanczos.basis.shape[1]
    while not (settled or converged_to_rounding) and lanczos.steps < min(n, most + for_each * count):
        lanczos.step()
        values, residuals, vectors = lanczos.ritz()
        count = int((values > threshold).sum())
        if count == lanczos.steps < n:
            continue
        last = slice(max(0, lanczos.steps - count - 1), None)  # ascending: the first one below, and all above
        clear = count == lanczos.steps or values[last][0] + residuals[last][0] <= threshold
        settled = clear and bool(np.all(residuals[last] <= np.maximum(tol * np.abs(values[last]), lanczos.rounding)))
        converged_to_rounding = bool(np.all(residuals[last] <= lanczos.rounding))
    columns = lanczos.basis.T @ torch.as_tensor(vectors[:, lanczos.steps - count :]).to(lanczos.basis)
    return columns, settled


def _rayleigh_ritz(operator: SymmetricOperator, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the eigenvalues of V'CV, descending, their residuals in the whole space, and their vectors."""
    if V.shape[1] == 0:
        return *torch.zeros(2, 0, dtype=torch.float64), V
    products = torch.stack([operator.matvec(column) for column in V.T], 1).double()
    small = V.double().T @ products
    values, rotation = torch.linalg.eigh((small + small.T) / 2)
    values, rotation = values.flip(0), rotation.flip(1)
    vectors = V.double() @ rotation
    residuals = torch.linalg.vector_norm(products @ rotation - vectors * values, dim=0)
    return values.cpu(), residuals.cpu(), vectors.to(V.dtype)
