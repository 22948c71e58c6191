"""Means over seeds for prose and for tables with one row per setting, with their intervals."""

from collections.abc import Iterable, Mapping

import pandas as pd

from flatlib.stats import format_mean

MISSING = "not measured in these runs"


def setting_means(
    runs: pd.DataFrame, by: Iterable[str], columns: Mapping[str, str], missing: str = MISSING
) -> pd.DataFrame:
    """Return one row per setting with the mean over seeds of each column, as text; one row that says so without runs.

    Args:
        runs: The runs that count.
        by: The columns whose combinations are the settings.
        columns: From the heading of a column of the result to the column of the runs; those that the runs lack are
            empty.
        missing: What stands in a table without runs, and for a setting without a value.
    """
    names = list(by)
    rows = []
    for key, group in runs.groupby(names, sort=True):
        row = {name.replace("_", " "): f"{value}" for name, value in zip(names, key, strict=True)}
        rows.append(row | {heading: seed_mean(group, column, missing) for heading, column in columns.items()})
    return pd.DataFrame(rows or [{next(iter(columns)): missing}])


def seed_mean(runs: pd.DataFrame, column: str, missing: str = MISSING) -> str:
    """Return the mean over seeds of a column, a seed at the mean of its runs, with its interval."""
    if column not in runs:
        return missing
    return format_mean(runs[column].astype(float).groupby(runs["seed"]).mean(), missing)


def in_prose(values: pd.Series, missing: str = MISSING) -> str:
    """Return the mean of one number per seed with its interval, without the number of seeds.

    >>> in_prose(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0]))
    '3.0 [1.2, 4.8]'
    """
    return format_mean(values.astype(float), missing).partition(", n =")[0]
