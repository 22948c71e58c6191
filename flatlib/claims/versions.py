"""Versions of the estimators behind the measures of a table of runs: values of two versions are not compared.

A record holds a measure's version beside its value, as ``frobenius_version``, unless it is the first one, or the value
is exact and so the same in every version.
"""

import pandas as pd

from flatlib.errors import FlatlibError
from flatlib.names import AT_LOSS, MEASURES


class MixedVersions(FlatlibError):
    """Values of one measure by different versions of its estimator, where they would be compared."""


def versions(runs: pd.DataFrame, column: str) -> pd.Series:
    """Return the version behind each value of a column, missing where there is no value or an exact one.

    >>> runs = pd.DataFrame({"frobenius": [2.0, 2.1, None], "frobenius_version": [None, 2, None]})
    >>> versions(runs, "frobenius").tolist()
    [1.0, 2.0, nan]
    """
    stem = column.removesuffix(AT_LOSS)
    suffix = column[len(stem) :]
    measure = max((name for name in MEASURES if f"{stem}_".startswith(f"{name}_")), key=len, default=stem)
    missing = pd.Series(float("nan"), index=runs.index)
    if f"{measure}_version{suffix}" not in runs:
        return missing
    found = runs[f"{measure}_version{suffix}"].astype(float).fillna(1.0)
    error = runs.get(f"{measure}_standard_error{suffix}", missing)
    return found.where(runs[column].notna() & (error.astype(float) != 0)) if column in runs else missing


def of_one_version(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the runs of a table, in which a seed's runs are compared with each other, as they are.

    Raises:
        MixedVersions: If a seed's runs have values of different versions in one of the columns.
    """
    for column in columns:
        counts = versions(runs, column).groupby(runs["seed"]).nunique()
        if (counts > 1).any():
            raise MixedVersions(
                f"{column}: among the runs of seed {counts.idxmax()} are values of different versions of this measure, "
                "which are not compared: take seeds of which no run is recorded yet"
            )
    return runs


def newest_version(runs: pd.DataFrame, column: str) -> pd.Series:
    """Return a column without the values of all but the newest version, of all runs together."""
    found = versions(runs, column)
    return runs[column].mask(found < found.max())
