"""Which runs count: the settings that every seed trained to the stop rule."""

from collections.abc import Iterable

import pandas as pd


def complete_cells(runs: pd.DataFrame, by: Iterable[str]) -> pd.DataFrame:
    """Return the runs of those settings (combinations of ``by``) that every seed trained to the stop rule.

    A setting that only some seeds reached would bias the rest: it is excluded as a whole, and :func:`exclusions`
    counts it.
    """
    reached = runs["status"] == "reached"
    return runs[reached.groupby([runs[name] for name in by]).transform("all")]


def exclusions(runs: pd.DataFrame, by: Iterable[str]) -> pd.DataFrame:
    """Count how the runs of each setting ended.

    Returns:
        One row per combination of ``by``, one column per status, and whether the setting counts.
    """
    counts = pd.crosstab([runs[name] for name in by], runs["status"])
    counts = counts.reindex(columns=["reached", "capped", "diverged"], fill_value=0)
    return counts.assign(counts=(counts["reached"] == counts.sum(axis=1)).map({True: "yes", False: "no"})).reset_index()
