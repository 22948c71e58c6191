"""Lanczos with full reorthogonalisation: a symmetric operator seen through the Krylov space of one start vector."""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from flatlib.errors import NotFinite

ROUNDING = 10.0
"""Multiples of machine epsilon times ||T|| below which a number is rounding error; tuned."""

KEPT = 0.7
"""A vector that keeps this part of its length needs no second orthogonalisation (Daniel et al. 1976)."""

SAFE = 1e-12
"""Lengths between this and its inverse are those of vectors whose squares neither vanish nor overflow in float32."""

ROWS = 32
"""Vectors that there is room for at first; most searches need fewer, and growing copies them all."""


class Lanczos:
    r"""$H Q_m = Q_m T_m + \beta_m q_{m+1} e_m^\top$: one product a step, $Q_m$ orthonormal, $T_m$ tridiagonal.

    Every new vector is orthogonalised against all earlier ones, and once more if that took much of it (Parlett 1998,
    "twice is enough"): without that, copies of converged eigenvalues appear. What it takes away of a product itself
    is zero for a symmetric matrix (`asymmetry`, the largest so far). The basis is kept in the operator's dtype,
    $T$ in float64. Lengths neither vanish nor overflow, so that Hessians of any scale behave alike.

    matvec: (n,) -> (n,), symmetric.
    start: (n,), not zero; the eigenvectors orthogonal to it are invisible.
    generator: CPU generator of the vectors that carry on once the Krylov space is exhausted.
    """

    def __init__(self, matvec: Callable[[Tensor], Tensor], start: Tensor, generator: torch.Generator):
        self._matvec = matvec
        self._generator = generator
        self._vectors = torch.empty(min(ROWS, len(start)), len(start), dtype=start.dtype, device=start.device)
        self._next: Tensor | None = start / _norm(start)
        self._alphas: list[float] = []
        self._betas: list[float] = []
        self.asymmetry = 0.0

    @property
    def steps(self) -> int:
        """m, the number of products so far."""
        return len(self._alphas)

    @property
    def basis(self) -> Tensor:
        """$Q_m^\\top$, shape (m, n)."""
        return self._vectors[: self.steps]

    @property
    def exhausted(self) -> bool:
        """Whether the Krylov space is invariant, so that the Ritz values are eigenvalues to rounding."""
        return self._next is None

    @property
    def rounding(self) -> float:
        """What is indistinguishable from zero beside $\\|T\\|$: as the dtype says, or as the products show."""
        return max(self._negligible, self.asymmetry)

    @property
    def _negligible(self) -> float:
        return ROUNDING * torch.finfo(self._vectors.dtype).eps * self.size

    @property
    def size(self) -> float:
        """$\\|T\\|$, or a little more."""
        return max((abs(a) + b for a, b in zip(self._alphas, self._betas, strict=False)), default=0.0)

    def step(self) -> None:
        """One product, one more row of $T$. An exhausted space is continued from a random vector orthogonal to it."""
        q = self._fresh() if self._next is None else self._next
        self._append(q)
        w = self._matvec(q)
        length = _norm(w)
        if not length <= torch.finfo(w.dtype).max:  # entries may be finite where their length no longer is
            raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
        safe = SAFE < length < 1 / SAFE
        alpha = float(torch.dot(w, q)) if safe else length * float(torch.dot(w / (length or 1.0), q))
        self._alphas.append(alpha)
        w = torch.add(w, q, alpha=-alpha)  # from here on in place: a new vector costs more than a sum
        if self.steps > 1 and self._betas[-1] > 0:
            w.add_(self._vectors[self.steps - 2], alpha=-self._betas[-1])
        beta, overlap = self._orthogonalise(w)
        self.asymmetry = max(self.asymmetry, overlap)
        self._betas.append(beta)
        if beta <= self._negligible or self.steps == len(w):
            self._betas[-1] = 0.0
            self._next = None
        else:
            self._next = w.div_(beta)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Ritz values ascending (m,), their residuals $|\beta_m s_m|$ (m,), and T's eigenvectors S in columns (m, m).

        A residual is $\|Hv - \theta v\|$ of the Ritz vector $v = Q_m s$; none is stated below the rounding error.
        """
        values, vectors = scipy.linalg.eigh_tridiagonal(np.array(self._alphas), np.array(self._betas[:-1]))
        residuals = np.maximum(self._betas[-1] * np.abs(vectors[-1]), max(self._negligible / ROUNDING, self.asymmetry))
        return values, residuals, vectors

    def _append(self, q: Tensor) -> None:
        if self.steps == len(self._vectors):
            grown = torch.empty(min(2 * self.steps, len(q)), len(q), dtype=q.dtype, device=q.device)
            grown[: self.steps] = self._vectors
            self._vectors = grown
        self._vectors[self.steps] = q

    def _orthogonalise(self, w: Tensor) -> tuple[float, float]:
        """Orthogonalise w against the basis, in place; the length that is left, and that of the part taken away."""
        before = _norm(w)
        overlap = self.basis @ w
        w.addmv_(self.basis.T, overlap, alpha=-1)
        after = _norm(w)
        if after <= KEPT * before:
            w.addmv_(self.basis.T, self.basis @ w, alpha=-1)
            after = _norm(w)
        return after, _norm(overlap)

    def _fresh(self) -> Tensor:
        q = torch.randn(self._vectors.shape[1], generator=self._generator, dtype=torch.float64).to(self._vectors)
        return q.div_(self._orthogonalise(q)[0])


def _norm(v: Tensor) -> float:
    """$\\|v\\|$ without underflow: squares of entries below 1e-19 vanish in float32."""
    length = float(torch.linalg.vector_norm(v))
    if SAFE < length < 1 / SAFE:
        return length
    largest = float(v.abs().max())
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(v / largest))
