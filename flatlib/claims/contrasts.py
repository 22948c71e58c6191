"""One number per seed: how a measure moves with a setting, and how two groups of runs of the same seed differ.

A table has one row per training run with a column `seed`. Runs whose value is not finite are left out; a seed that
leaves nothing to compute is NaN, so that `result.isna().sum()` counts what was lost.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from flatlib.stats import kendall_tau


def seed_taus(table: pd.DataFrame, x: str, y: str) -> pd.Series:
    """Kendall's tau of x and y over each seed's runs; NaN for a seed where x or y is constant.

    >>> runs = pd.DataFrame({"seed": [0, 0, 0], "sam_rho": [0, 0.1, 0.2], "lambda_max": [9.0, 5.0, 4.0]})
    >>> seed_taus(runs, "sam_rho", "lambda_max").to_dict()
    {0: -1.0}
    """
    return _per_seed(table, lambda runs: _tau(runs[x].to_numpy(float), runs[y].to_numpy(float)))


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    return kendall_tau(x, y) if min(len(np.unique(x)), len(np.unique(y))) > 1 else np.nan


def seed_differences(table: pd.DataFrame, y: str, high: pd.Series, low: pd.Series) -> pd.Series:
    """Each seed's mean of y over the rows `high`, minus that over the rows `low` (two boolean columns)."""
    values = finite(table, y)
    means = [values[rows].groupby(table["seed"]).mean().reindex(seeds(table)) for rows in (high, low)]
    return means[0] - means[1]


def log2_ratio_by_seed(table: pd.DataFrame, y: str, high: pd.Series, low: pd.Series) -> pd.Series:
    """Each seed's mean of log2 y over the rows `high`, minus that over the rows `low`: 1 is twice as large.

    A y that is not positive has no logarithm: its seed is NaN. Rows that are in neither group have no say.
    """
    values = finite(table, y)
    lost = ((values <= 0) & (high | low)).groupby(table["seed"]).any()
    logs = table.assign(doublings=np.log2(values.where(values > 0)))
    return seed_differences(logs, "doublings", high, low).mask(lost)


def finite(table: pd.DataFrame, y: str) -> pd.Series:
    """The values of a column, NaN where they are not finite."""
    values = table[y].astype(float)
    return values.where(np.isfinite(values))


def mean_over_blocks(table: pd.DataFrame, by: list[str], statistic: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """The mean over groups (combinations of `by`) of a statistic per seed, so that only runs that share the settings
    `by` are compared; a group that has no answer for a seed is left out of that seed's mean."""
    parts = [statistic(group) for _, group in table.groupby(by)]
    return pd.concat(parts, axis=1).mean(axis=1) if parts else pd.Series(dtype=float)


def _per_seed(table: pd.DataFrame, number: Callable[[pd.DataFrame], float]) -> pd.Series:
    return pd.Series({seed: number(runs) for seed, runs in table.groupby("seed")}, dtype=float).rename_axis("seed")


def seeds(table: pd.DataFrame) -> list:
    """The seeds of a table, ascending."""
    return sorted(table["seed"].unique())
