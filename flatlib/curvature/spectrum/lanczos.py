"""The Lanczos iteration with full reorthogonalization."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.spectrum.error_bounds import outer_limit, required_growth
from flatlib.errors import NotFinite

ROUNDING = 10.0  # multiples of machine epsilon times ||T|| below which a number is rounding error; tuned
KEPT = 0.7  # a vector that keeps this part of its norm needs no second orthogonalization (Daniel et al. 1976)
SAFE = 1e-12  # norms between this and its inverse have squares that neither underflow nor overflow in float32
ROWS = 32  # vectors allocated at first; most searches need fewer, and growing copies them all


class Lanczos:
    r"""$H Q_m = Q_m T_m + \beta_m q_{m+1} e_m^\top$: one product a step, $Q_m$ orthonormal, $T_m$ tridiagonal.

    Every new vector is orthogonalized against all earlier ones, and once more if that removed much of it (Parlett 1998,
    "twice is enough"): otherwise copies of converged eigenvalues appear. What is removed of a product itself is zero
    for a symmetric matrix; ``asymmetry`` is its largest norm so far. The basis is kept in the operator's dtype, $T$ in
    float64. Norms neither underflow nor overflow, so that Hessians of any scale behave alike.

    Args:
        matvec: Symmetric product, (n,) -> (n,).
        start: Vector (n,), not zero; the eigenvectors orthogonal to it are invisible.
        generator: CPU generator of the vectors that continue an exhausted Krylov space.
    """

    def __init__(self, matvec: Callable[[Tensor], Tensor], start: Tensor, generator: torch.Generator):
        self._matvec = matvec
        self._generator = generator
        self._vectors = start.new_empty(min(ROWS, len(start)), len(start))
        self._next: Tensor | None = start / _norm(start)
        self._alphas: list[float] = []
        self._betas: list[float] = []
        self.asymmetry = 0.0

    @property
    def steps(self) -> int:
        """Number m of products so far."""
        return len(self._alphas)

    @property
    def basis(self) -> Tensor:
        """$Q_m^\\top$, shape (m, n)."""
        return self._vectors[: self.steps]

    @property
    def exhausted(self) -> bool:
        """Whether the Krylov space is invariant: the Ritz values are then eigenvalues to rounding."""
        return self._next is None

    @property
    def rounding(self) -> float:
        """Numbers below this are zero to rounding: from the dtype, or from the asymmetry of the products."""
        return max(self._negligible, self.asymmetry)

    @property
    def floor(self) -> float:
        """Rounding error of H: no residual, and no error of an eigenvalue, is known to be smaller."""
        return max(self._negligible / ROUNDING, self.asymmetry)

    @property
    def _negligible(self) -> float:
        return ROUNDING * torch.finfo(self._vectors.dtype).eps * self.size

    @property
    def size(self) -> float:
        """Upper bound of $\\|T\\|$."""
        return max((abs(a) + b for a, b in zip(self._alphas, self._betas, strict=False)), default=0.0)

    def step(self) -> None:
        """Add one product and one row of $T$; continue an exhausted space from a random vector orthogonal to it."""
        q = self._random_direction() if self._next is None else self._next
        self._append(q)
        w = self._matvec(q)
        norm = _norm(w)
        if not norm <= torch.finfo(w.dtype).max:  # entries may be finite where their norm no longer is
            raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
        safe = SAFE < norm < 1 / SAFE
        alpha = float(torch.dot(w, q)) if safe else norm * float(torch.dot(w / (norm or 1.0), q))
        self._alphas.append(alpha)
        w = torch.add(w, q, alpha=-alpha)  # from here on in place: a new vector costs more than a sum
        if self.steps > 1 and self._betas[-1] > 0:
            w.add_(self._vectors[self.steps - 2], alpha=-self._betas[-1])
        beta, overlap = self._orthogonalize(w)
        self.asymmetry = max(self.asymmetry, overlap)
        self._betas.append(beta)
        if beta <= self._negligible or self.steps == len(w):
            self._betas[-1], self._next = 0.0, None
        else:
            self._next = w.div_(beta)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Return the Ritz values (m,), ascending, their residuals $|\beta_m s_m|$ (m,), and T's eigenvectors S (m, m).

        A residual is $\|Hv - \theta v\|$ of the Ritz vector $v = Q_m s$, and not below the rounding error.
        """
        import scipy.linalg  # here, since it takes longer to import than the rest of flatlib.curvature

        values, vectors = scipy.linalg.eigh_tridiagonal(np.array(self._alphas), np.array(self._betas[:-1]))
        return values, np.maximum(self._betas[-1] * np.abs(vectors[-1]), self.floor), vectors

    def limit(self, sign: int, random_part: float) -> float:
        """Return what no eigenvalue exceeds (sign 1) or falls below (-1), with the probability ``CONFIDENCE``.

        Args:
            sign: End of the spectrum.
            random_part: Norm of the random vector in the start vector, relative to the whole.
        """
        import scipy.linalg

        first = self._betas.index(0.0) + 1 if 0.0 in self._betas else self.steps  # steps in the start's Krylov space
        betas = np.maximum(self._betas[:first], self._negligible)
        values = scipy.linalg.eigvalsh_tridiagonal(np.array(self._alphas[:first]), np.array(self._betas[: first - 1]))
        growth = required_growth(self._vectors.shape[1], random_part)
        return sign * (outer_limit(sign * values, betas, growth) + self.rounding)

    def _append(self, q: Tensor) -> None:
        if self.steps == len(self._vectors):
            grown = q.new_empty(min(2 * self.steps, len(q)), len(q))
            grown[: self.steps] = self._vectors
            self._vectors = grown
        self._vectors[self.steps] = q

    def _orthogonalize(self, w: Tensor) -> tuple[float, float]:
        """Orthogonalize w against the basis, in place; return the norms of what is left and of what was removed."""
        before = _norm(w)
        overlap = self.basis @ w
        w.addmv_(self.basis.T, overlap, alpha=-1)
        after = _norm(w)
        if after <= KEPT * before:
            w.addmv_(self.basis.T, self.basis @ w, alpha=-1)
            after = _norm(w)
        return after, _norm(overlap)

    def _random_direction(self) -> Tensor:
        q = torch.randn(self._vectors.shape[1], generator=self._generator, dtype=torch.float64).to(self._vectors)
        return q.div_(self._orthogonalize(q)[0])


def _norm(v: Tensor) -> float:
    """Return $\\|v\\|$ without underflow: squares of entries below 1e-19 vanish in float32."""
    norm = float(torch.linalg.vector_norm(v))
    if SAFE < norm < 1 / SAFE:
        return norm
    largest = float(v.abs().max())
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(v / largest))
