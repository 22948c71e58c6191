"""Statistics over seeds: bootstrap intervals, slopes, rank correlation, differences at matched sharpness.

Everything here sees tables and arrays only. A table has one row per training run; rows whose values are not finite
(diverged runs) are left out of slopes and differences, and a seed that leaves nothing to compute is NaN, so that
`result.isna().sum()` counts what was lost. NaN never reaches an interval unnoticed: `bootstrap_mean` refuses it.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import factorial, floor, inf, isinf, log10, prod, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit
from scipy.stats import kendalltau

from flatlib.errors import FlatlibError

EXACT_UP_TO = 6  # 462 distinct resamples at n = 6; above, Monte Carlo error is smaller than the method's own


@dataclass(frozen=True)
class Interval:
    """An estimate over `n` seeds with its confidence interval [low, high] at `level`, in the units of the values.

    >>> print(Interval(93.1234, 92.871, 93.402, n=5, level=0.95))
    93.12 [92.87, 93.40], n = 5
    """

    estimate: float
    low: float
    high: float
    n: int
    level: float

    def __str__(self) -> str:
        width = self.high - self.low
        if width == 0 or isinf(width):
            return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}], n = {self.n}"
        digits = min(max(1 - floor(log10(width)), 0), 12)  # two significant digits of the width
        return f"{self.estimate:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}], n = {self.n}"


def bootstrap_mean(values: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    r"""Expanded percentile bootstrap interval for the mean over seeds.

    The interval is [F⁻¹(α'), F⁻¹(1 - α')], F the distribution of the mean of n draws with replacement from the n
    values. The plain percentile interval (α' = α/2) is too narrow for few seeds; the expanded one takes

        α' = Φ( -√(n / (n - 1)) · t_{1 - α/2, n - 1} ),    α = 1 - level,

    which undoes the factor √((n - 1)/n) in the resampled spread and replaces the normal quantile by Student's. F is
    exact for n ≤ 6 (every resample, weighted by its multinomial probability), else `resamples` seeded draws.

    Resampled means never leave [min, max], so with n values of a symmetric law coverage is at most 1 - 2^(1 - n):
    75 % for 3 seeds, 87.5 % for 4, 93.75 % for 5, 96.9 % for 6. Do not read fewer than 5 seeds as a 95 % interval.
    Simulated at 5 seeds: 92.7 % (normal), 86.8 % (exponential); at 3 seeds: 75.0 % (normal).

    Args:
        values: shape (n,), one value per seed; their order does not matter.
        level: confidence level in (0, 1).
        resamples, seed: Monte Carlo draws when n > 6 (10000: the source's advice for routine use), and their seed.

    Returns:
        The mean with its interval; (-inf, inf) for one value, whose spread nothing is known about.

    Raises:
        FlatlibError: no value, a value that is not finite, or a level outside (0, 1).

    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap" (the expanded percentile interval).

    >>> print(bootstrap_mean([1.0, 2.0, 3.0, 4.0, 5.0]))
    3.0 [1.2, 4.8], n = 5
    """
    values = np.sort(_finite("values", values))  # sorted: the result is a function of the set, to the last bit
    n = len(values)
    if n == 0:
        raise FlatlibError("bootstrap_mean: no values; at least one seed is needed")
    if not 0 < level < 1:
        raise FlatlibError(f"bootstrap_mean: level is {level}; allowed is a number between 0 and 1, such as 0.95")
    if n == 1:
        return Interval(float(values[0]), -inf, inf, n, level)
    counts, weights = seed_resamples(n, resamples, seed)
    return Interval(float(values.mean()), *expanded_percentile(counts @ values / n, weights, n, level), n, level)


def expanded_percentile(resampled: np.ndarray, weights: np.ndarray, n: int, level: float) -> tuple[float, float]:
    """The interval of `bootstrap_mean` for any statistic of n > 1 seeds: its values on `seed_resamples`, and their
    weights, both of shape (resamples,)."""
    tail = ndtr(-sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + level) / 2))
    return tuple(np.quantile(resampled, [tail, 1 - tail], weights=weights, method="inverted_cdf").tolist())


@cache
def seed_resamples(n: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each of n seeds is drawn, shape (resamples, n), and the weights (resamples,): every resample there is
    up to `EXACT_UP_TO` seeds, else so many seeded draws."""
    if n <= EXACT_UP_TO:
        return _every_resample(n)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples), np.ones(resamples)


def _every_resample(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All ways to draw n of n values with replacement: counts (C(2n-1, n), n) and how many of the n^n each stands for.

    A resample is n balls in n boxes, written as n - 1 bars among 2n - 1 places.
    """
    bars = np.array(list(combinations(range(2 * n - 1), n - 1)))
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), 2 * n - 1)])
    counts = np.diff(edges, axis=1) - 1
    ways = [factorial(n) // prod(factorial(k) for k in row) for row in counts.tolist()]
    return counts, np.array(ways, dtype=float)


def seed_slopes(table: pd.DataFrame, x: str, y: str, *, logx: bool = True, logy: bool = False) -> pd.Series:
    """One least-squares slope of y on x per seed: Σ (x - x̄)(y - ȳ) / Σ (x - x̄)².

    Args:
        table: one row per run with columns `seed`, x and y.
        logx: use log₁₀ x, so that the slope is y's units per decade of x.
        logy: use log₁₀ y; with logx the slope is the exponent of a power law.

    Returns:
        Slopes indexed by seed; NaN for a seed with fewer than two distinct finite x.

    Raises:
        FlatlibError: a missing column, an empty table, or a logarithm of a number that is not positive.

    >>> runs = pd.DataFrame({"seed": [0, 0, 0], "lambda_max": [1, 10, 100], "test_accuracy": [0.9, 0.8, 0.7]})
    >>> seed_slopes(runs, "lambda_max", "test_accuracy").round(6).to_dict()
    {0: -0.1}
    """
    runs = _columns(table, ["seed", x, y])
    points = pd.DataFrame({"seed": runs["seed"], "x": _logged(runs, x, logx), "y": _logged(runs, y, logy)})
    slopes = {seed: _slope(*_finite_pairs(group)) for seed, group in points.groupby("seed")}
    return pd.Series(slopes, name="slope", dtype=float).rename_axis("seed")


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    if len(np.unique(x)) < 2:
        return np.nan
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's rank correlation τ_b = (P - Q) / √((P + Q + T_x)(P + Q + T_y)), in [-1, 1].

    P and Q count concordant and discordant pairs, T_x and T_y the pairs tied in x alone and in y alone. Computed by
    `scipy.stats.kendalltau`; x and y have shape (n,).

    Raises:
        FlatlibError: lengths that differ, fewer than two values, a value that is not finite, or a constant x or y.

    Source: Kendall 1945, "The treatment of ties in ranking problems"; used to judge measures by Jiang et al. 2020.

    >>> round(kendall_tau([1, 2, 3, 4], [10, 20, 30, 25]), 3)
    0.667
    """
    x, y = _finite("x", x), _finite("y", y)
    if len(x) != len(y):
        raise FlatlibError(f"kendall_tau: x has {len(x)} values and y has {len(y)}; they must pair up")
    for name, values in (("x", x), ("y", y)):
        if len(np.unique(values)) < 2:
            raise FlatlibError(f"kendall_tau: {name} has fewer than two distinct values, so it ranks nothing")
    return float(kendalltau(x, y, variant="b").statistic)


def matched_difference(
    table: pd.DataFrame,
    x: str = "lambda_max",
    y: str = "test_accuracy",
    group: str = "batch_size",
    *,
    high: object,
    low: object,
) -> pd.Series:
    """How much higher y is in one group than in another at the same x, per seed.

    With f_g the linear interpolation of y over u = log x within group g of one seed, and [a, b] the overlap of the
    two groups' ranges of u, the difference is 1/(b - a) · ∫ₐᵇ (f_high - f_low) du. The integral is exact: both
    functions are linear between the union of their knots. Runs with equal x count as one, at their mean y.

    Args:
        table: one row per run with columns `seed`, group, x (positive) and y.
        high, low: the two values of `group`; a positive result means that y is larger in `high`.

    Returns:
        Differences in y's units, indexed by seed; NaN for a seed whose ranges share no interval.

    Raises:
        FlatlibError: a missing column, an empty table, a group that is not in the table, or an x that is not positive.

    Source: ours. It asks Kaur et al.'s (2022) question, whether sharpness alone tells batch sizes apart, of one number.
    """
    runs = _columns(table, ["seed", group, x, y])
    for value in (high, low):
        if value not in set(runs[group]):
            raise FlatlibError(f"{group} = {value!r} is not in the table; present are {sorted(set(runs[group]))}")
    points = pd.DataFrame({"seed": runs["seed"], "g": runs[group], "x": _logged(runs, x, True), "y": runs[y]})
    differences = {
        seed: _mean_gap(*(_finite_pairs(of_seed[of_seed["g"] == value]) for value in (high, low)))
        for seed, of_seed in points.groupby("seed")
    }
    return pd.Series(differences, name="difference", dtype=float).rename_axis("seed")


def _mean_gap(high: tuple[np.ndarray, np.ndarray], low: tuple[np.ndarray, np.ndarray]) -> float:
    curves = [pd.Series(y).groupby(x).mean() for x, y in (high, low)]  # sorted by x, equal x averaged
    if min(map(len, curves)) == 0:
        return np.nan
    start = max(curve.index[0] for curve in curves)
    stop = min(curve.index[-1] for curve in curves)
    if not start < stop:
        return np.nan
    knots = np.unique(np.clip(np.concatenate([curve.index for curve in curves]), start, stop))
    f_high, f_low = (np.interp(knots, curve.index, curve) for curve in curves)
    return float(np.trapezoid(f_high - f_low, knots) / (stop - start))


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise FlatlibError(f"{name} must be a flat list of finite numbers, got {values.tolist()}")
    return values


def _finite_pairs(points: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    kept = points[np.isfinite(points["x"]) & np.isfinite(points["y"])]
    return kept["x"].to_numpy(), kept["y"].to_numpy()


def _columns(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    missing = [name for name in names if name not in table]
    if missing:
        raise FlatlibError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise FlatlibError("the table is empty; it must have one row per run")
    return table[names]


def _logged(table: pd.DataFrame, name: str, log: bool) -> pd.Series:
    values = table[name].astype(float)
    if not log:
        return values
    if (values <= 0).any():
        raise FlatlibError(f"{name} has {(values <= 0).sum()} values that are not positive; its logarithm is undefined")
    return np.log10(values)
