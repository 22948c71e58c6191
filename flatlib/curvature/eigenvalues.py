"""The ends of a Hessian's spectrum, by Lanczos or by PyHessian, with the error of every value."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.lanczos import Lanczos
from flatlib.curvature.operator import HessianOperator
from flatlib.curvature.row_space import narrowed
from flatlib.curvature.symmetry import require_symmetry
from flatlib.errors import FlatlibError

ENDS = {"largest": ("largest",), "smallest": ("smallest",), "both": ("largest", "smallest")}
SIGNS = {"largest": 1, "smallest": -1}
LANCZOS_PRODUCTS = 200
"""Limit of the Lanczos engine; trained nets need 5-20 products for the largest eigenvalue at tol=1e-3."""
PYHESSIAN_PRODUCTS = 1000
"""Limit of the PyHessian engine; power iteration needs 20-300 products for the largest eigenvalue at tol=1e-3."""
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


def top_eigenvalues(
    operator: HessianOperator,
    k: int = 1,
    *,
    which: str = "largest",
    engine: str = "lanczos",
    tol: float = 1e-3,
    max_products: int | None = None,
    start: Tensor | str | None = None,
    seed: int = 0,
) -> Eigenvalues:
    """The k largest or smallest eigenvalues (by sign, not by magnitude), or both ends.

    A residual certifies that AN eigenvalue lies that near, not that it is THE largest: a start nearly orthogonal to the
    top eigenvector can stop at the next one. On a digits net 1 of 800 random starts did, by 6 %, at tol=1e-3, and none
    at 3e-4; a second `seed` is the check. A warm start is therefore used plus a random part (`RANDOM_PART`).
    An eigenvalue of higher multiplicity may be counted once.

    Where the inputs are fewer than they have numbers, the search may run on their row space (`row_space`): the same
    eigenvalues, cheaper.

    Parameters
    ----------
    operator: of the matrix, (n, n): a `HessianOperator`, a `GaussNewtonOperator` or a `PreconditionedOperator`.
    k: how many, at most n (half of it for both ends).
    which: "largest", "smallest" or "both".
    engine: "lanczos", or "pyhessian": PyHessian's power iteration (Yao et al. 2020), which needs several times as many
        products.
    tol: stop when each wanted residual is at most tol |value|, or at the rounding error of H.
    max_products: give up, with `converged=False`, after so many; by default the engine's own limit.
    start: (n,) warm start, such as an earlier `vectors[:, 0]`; "random"; or by default the same eigenvectors of a tenth
        of the examples where these are many (`subsample_start`), whose products are not counted. The first and the last
        are used plus a random part.
    seed: of the subsample and the random part, drawn from a generator of its own.

    Raises
    ------
    FlatlibError: for arguments out of range and for a product which is not finite.
    """
    n = operator.shape[0]
    if which not in ENDS:
        raise FlatlibError(f'which="{which}" is unknown; choose one of {", ".join(ENDS)}')
    if not 1 <= k <= n:
        raise FlatlibError(f"k={k} eigenvalues were asked of a Hessian of dimension {n}")
    if not tol > 0:
        raise FlatlibError(f"tol={tol} must be positive")
    needed = min(n, k * len(ENDS[which]))
    if max_products is not None and max_products < needed:
        raise FlatlibError(f"max_products={max_products} cannot give {needed} eigenvalues")
    if isinstance(start, str) and start != "random":
        raise FlatlibError(f'start="{start}" is unknown; pass a vector or "random"')
    if engine not in ENGINES:
        raise FlatlibError(f'engine="{engine}" is unknown; choose one of {", ".join(ENGINES)}')
    if engine == "pyhessian" and not isinstance(operator, HessianOperator):
        raise FlatlibError(
            f'engine="pyhessian" multiplies by the Hessian alone: use engine="lanczos" for a {type(operator).__name__}'
        )
    if isinstance(start, Tensor) and (start.shape != (n,) or not torch.isfinite(start).all()):
        raise FlatlibError(f"start must be {n} finite numbers, got the shape {tuple(start.shape)}")
    generator = torch.Generator().manual_seed(seed)
    return ENGINES[engine](operator, start, generator, k, ENDS[which], tol, max_products)


def _by_lanczos(
    operator: HessianOperator,
    start: Tensor | str | None,
    generator: torch.Generator,
    k: int,
    ends: tuple[str, ...],
    tol: float,
    max_products: int | None,
) -> Eigenvalues:
    """On the row space of the inputs where that is cheaper, unless the zeros outside it are among the wanted values."""
    narrow = narrowed(operator)
    if narrow is not None and k * len(ends) <= narrow.operator.shape[0]:
        inside = narrow.into(start) if isinstance(start, Tensor) else start
        found = _search(narrow.operator, inside, generator, k, ends, tol, max_products)
        signs = torch.tensor([SIGNS[end] for end in ends for _ in range(k)])
        if (signs * found.values > 0).all():
            return replace(found, vectors=narrow.out_of(found.vectors))
    return _search(operator, start, generator, k, ends, tol, max_products)


def _search(
    operator: HessianOperator,
    start: Tensor | str | None,
    generator: torch.Generator,
    k: int,
    ends: tuple[str, ...],
    tol: float,
    max_products: int | None,
) -> Eigenvalues:
    if start is None:
        start = subsample_start(operator, k, ends, generator)
    vector = _start_vector(operator, start, generator)
    return _iterate(operator, vector, generator, k, ends, tol, max_products)


def _iterate(
    operator: HessianOperator,
    start: Tensor,
    generator: torch.Generator,
    k: int,
    ends: tuple[str, ...],
    tol: float,
    max_products: int | None,
) -> Eigenvalues:
    n = operator.shape[0]
    needed = min(n, k * len(ends))
    lanczos = Lanczos(operator.matvec, start, generator)
    converged = False
    while not converged and lanczos.steps < (max_products or LANCZOS_PRODUCTS):
        lanczos.step()
        if lanczos.steps < needed:
            continue
        values, residuals, vectors = lanczos.ritz()
        wanted = [i if end == "smallest" else lanczos.steps - 1 - i for end in ends for i in range(k)]
        bound = np.maximum(tol * np.abs(values[wanted]), lanczos.rounding)
        converged = bool(np.all(residuals[wanted] <= bound))
    require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
    columns = lanczos.basis.T @ torch.as_tensor(vectors[:, wanted]).to(lanczos.basis)
    return Eigenvalues(
        torch.as_tensor(values[wanted]),
        torch.as_tensor(residuals[wanted]),
        columns / torch.linalg.vector_norm(columns, dim=0),
        lanczos.steps,
        converged,
    )


def _by_pyhessian(
    operator: HessianOperator,
    start: Tensor | str | None,
    generator: torch.Generator,
    k: int,
    ends: tuple[str, ...],
    tol: float,
    max_products: int | None,
) -> Eigenvalues:
    from flatlib.curvature.power import PyHessianProducts, power_iteration  # PyHessian: no other engine needs it

    products = PyHessianProducts(operator)
    limit = max_products or PYHESSIAN_PRODUCTS

    def random() -> list[Tensor]:
        return products.pieces(_start_vector(operator, None, generator))

    pairs = []
    for later, end in zip(reversed(range(len(ends))), ends, strict=True):
        vector = random() if pairs else products.pieces(_start_vector(operator, start, generator))
        pairs += power_iteration(products, vector, random, k, SIGNS[end], tol, limit - k * later)
    values = torch.tensor([pair.value for pair in pairs], dtype=torch.float64)
    residuals = torch.tensor([pair.residual for pair in pairs], dtype=torch.float64)
    bound = torch.clamp(tol * values.abs(), min=products.rounding)
    columns = torch.stack([torch.cat([piece.flatten() for piece in pair.vector]) for pair in pairs], 1)
    return Eigenvalues(
        values / (products.scale or 1.0),
        residuals / (products.scale or 1.0),
        columns / torch.linalg.vector_norm(columns, dim=0),
        products.used,
        bool((residuals <= bound).all()) and all(pair.wanted_end for pair in pairs),
    )


def subsample_start(
    operator: HessianOperator, k: int, ends: tuple[str, ...], generator: torch.Generator
) -> Tensor | None:
    """The sum of the wanted eigenvectors, roughly, of the Hessian of `SUBSAMPLE` of the examples; None where that would
    cost as much as it saves, because a product is then spent on vectors of length n rather than on examples."""
    n, examples = operator.shape[0], int(SUBSAMPLE * getattr(operator, "examples", 0))
    if examples < FEWEST or examples * operator.bytes_per_example < WORTH * n * operator.torch_dtype.itemsize:
        return None
    part = operator.subsampled(examples, generator)
    found = _by_lanczos(part, "random", generator, k, ends, SUBSAMPLE_TOLERANCE, min(n, SUBSAMPLE_PRODUCTS + 2 * k))
    return found.vectors.sum(1)


ENGINES = {"lanczos": _by_lanczos, "pyhessian": _by_pyhessian}


def _start_vector(operator: HessianOperator, start: Tensor | str | None, generator: torch.Generator) -> Tensor:
    """A random unit vector, or the warm start plus `RANDOM_PART` of one; the same on every device."""
    noise = torch.randn(operator.shape[0], generator=generator, dtype=torch.float64)
    noise /= noise.norm()
    if not isinstance(start, Tensor):
        return noise.to(operator.device, operator.torch_dtype)
    warm = start.detach().to("cpu", torch.float64)
    length = warm.norm()
    warm = warm / length if length > 0 else warm
    return (warm + RANDOM_PART * noise).to(operator.device, operator.torch_dtype)
