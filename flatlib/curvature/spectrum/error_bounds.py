"""A posteriori bounds of eigenvalues: of the error of a Ritz value, and of what a Lanczos iteration has not seen."""

import math

import numpy as np

CONFIDENCE = 0.95  # probability of `outer_limit`
PRECISION = 1e-9  # of the distance from the largest Ritz value to the limit, from above


def kato_temple(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    r"""Return $\min(r_i, r_i^2 / \delta_i)$ for Ritz values $\theta_i$ and their residuals $r_i$, shape (m,).

    An eigenvalue lies within $r_i$ of $\theta_i$, and within $r_i^2 / \delta_i$ if no other one is nearer to $\theta_i$
    than $\delta_i$ (Parlett 1998, chapter 11). As every other Ritz value has an eigenvalue within its own residual,
    $\delta_i = \min_{j \ne i} |\theta_i - \theta_j| - r_j$. It is too large where an eigenvalue is not seen yet: two
    neighbours look like one until the residual is smaller than their distance.

    >>> kato_temple(np.array([0.0, 1.0]), np.array([0.1, 0.1])).round(4).tolist()
    [0.0111, 0.0111]
    """
    others = np.abs(values[:, None] - values) - residuals
    np.fill_diagonal(others, np.inf)
    gaps = np.maximum(others.min(1), residuals) if len(values) > 1 else residuals
    return residuals * np.divide(residuals, gaps, out=np.zeros_like(residuals), where=gaps > 0)


def required_growth(dimension: int, random_part: float, confidence: float = CONFIDENCE) -> float:
    r"""Return 1 / b, where a unit start vector has a component of at least b along any given eigenvector.

    This holds with the given probability for a vector $s + c z$ of norm 1, s fixed and z uniform on the unit sphere of
    n dimensions: the density of a component of z is at most $\sqrt{n / 2\pi}$, so
    $P(|u^\top (s + cz)| < b) \le (b / c) \sqrt{2n / \pi}$.

    Args:
        dimension: n.
        random_part: c, 1 for a random start.
        confidence: Probability.
    """
    return math.sqrt(2 * dimension / math.pi) / (random_part * (1 - confidence))


def outer_limit(values: np.ndarray, betas: np.ndarray, growth: float) -> float:
    r"""Return the least $t \ge \max \theta_i$ with $p(t) = \prod_i (t - \theta_i) / \prod_j \beta_j \ge$ ``growth``.

    Lanczos makes $q_{m+1} = p(C) q_1$. An eigenvector u with an eigenvalue $\lambda > t$ has
    $|u^\top q_1|\, p(\lambda) = |u^\top q_{m+1}| \le 1$: its component in the start vector is below 1 / ``growth``
    (van Dorsselaer, Hochstenbach and van der Vorst 2001). No eigenvalue exceeds t if there is none such,
    whatever the spectrum and after any number of steps.

    >>> outer_limit(np.array([0.0]), np.array([0.5]), 4.0)
    2.0
    """
    if not betas.all():
        return float(values.max())  # the space of the start is invariant: it has seen every eigenvalue
    gaps = values.max() - values
    target = math.log(growth) + np.log(betas).sum()
    log_excess, step = target / len(values), math.inf  # not below the root, to which Newton's method then descends
    while step > PRECISION:
        factors = np.exp(log_excess) + gaps
        step = (np.log(factors).sum() - target) / (np.exp(log_excess) / factors).sum()
        log_excess -= step
    return float(values.max() + np.exp(log_excess))
