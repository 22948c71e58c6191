"""Does it matter which sharpness was measured? Every measure of the same checkpoints against the same setting."""

from collections.abc import Iterable

import pandas as pd

from flatlib.claims.contrasts import mean_over_blocks, seed_taus
from flatlib.claims.selection import complete_cells
from flatlib.stats import bootstrap_mean

UNKNOWN = "no seed has an answer"


def trends(
    runs: pd.DataFrame, setting: str, measures: Iterable[str], *, held: Iterable[str] = (), by: str = "batch_size"
) -> pd.DataFrame:
    """Kendall's tau of a setting with every measure: 1 where the measure rises with each step of the setting, -1 where
    it falls. One row per measure and one column per value of `by`; the mean over seeds with its 95 % interval.

    Only runs that share `by` and all of `held` are compared. A combination that lost a seed is left out as a whole; a
    measure that is not defined for the network has no answer.

    Args:
        runs: a table of runs.
        setting: the column that is varied.
        measures: columns to correlate with it.
        held: columns that are equal among runs that are compared.
        by: the column whose values are compared separately.
    """
    held = list(held)
    kept = complete_cells(runs, [by, *held, setting])
    columns = {f"{by.replace('_', ' ')} {value:g}": of_value for value, of_value in kept.groupby(by)}
    rows = [
        {"measure": measure.replace("_", " ")}
        | {name: mean_text(_taus(of_value, setting, measure, held)) for name, of_value in columns.items()}
        for measure in measures
    ]
    return pd.DataFrame(rows)


def mean_text(values: pd.Series) -> str:
    """The mean over seeds with its interval, of the seeds that have one."""
    known = values.dropna()
    return str(bootstrap_mean(known)) if len(known) else UNKNOWN


def _taus(runs: pd.DataFrame, setting: str, measure: str, held: list[str]) -> pd.Series:
    if not held:
        return seed_taus(runs, setting, measure)
    return mean_over_blocks(runs, held, lambda group: seed_taus(group, setting, measure))
