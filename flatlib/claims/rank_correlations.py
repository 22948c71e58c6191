"""Every sharpness measure of the same runs against the same setting: does it matter which one was measured?"""

from collections.abc import Iterable

import pandas as pd

from flatlib.claims.selection import complete_cells
from flatlib.claims.study import Study
from flatlib.stats import format_mean


def trends(
    runs: pd.DataFrame, setting: str, measures: Iterable[str], *, held: Iterable[str] = (), by: str = "batch_size"
) -> pd.DataFrame:
    """Compute Kendall's tau of a setting with every measure, as a mean over seeds with its 95 % interval.

    It is 1 where the measure rises with each step of the setting, -1 where it falls. A combination of ``by``, ``held``
    and ``setting`` that lost a seed is excluded as a whole.

    Args:
        runs: A table of runs.
        setting: The column that is varied.
        measures: The columns to correlate with it.
        held: Columns that runs share to be compared.
        by: The column whose values are compared separately.

    Returns:
        One row per measure, one column of texts per value of ``by``.
    """
    study = Study(blocks=tuple(held))
    kept = complete_cells(runs, [by, *study.blocks, setting])
    columns = {f"{by.replace('_', ' ')} {value:g}": of_value for value, of_value in kept.groupby(by)}
    rows = [
        {"measure": measure.replace("_", " ")}
        | {name: format_mean(study.kendall(setting, measure)(of_value)) for name, of_value in columns.items()}
        for measure in measures
    ]
    return pd.DataFrame(rows)
