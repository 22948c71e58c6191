"""Which runs have a say: the settings that every seed trained to the stop rule, and the batch sizes by their rank."""

import pandas as pd

from flatlib.errors import FlatlibError


def complete_cells(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The runs of those settings (combinations of `by`) that every seed trained to the stop rule.

    A setting that some seeds reached and others did not would bias the rest: it is left out as a whole, and
    `exclusions` counts it.
    """
    reached = runs["status"] == "reached"
    return runs[reached.groupby([runs[name] for name in by]).transform("all")]


def exclusions(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How the runs of each setting ended: one row per combination of `by`, one column per status, and whether the
    setting counts."""
    counts = pd.crosstab([runs[name] for name in by], runs["status"])
    counts = counts.reindex(columns=["reached", "capped", "diverged"], fill_value=0)
    return counts.assign(counts=(counts["reached"] == counts.sum(axis=1)).map({True: "yes", False: "no"})).reset_index()


def at_batch(runs: pd.DataFrame, which: str, by: list[str]) -> pd.DataFrame:
    """The complete settings (combinations of `by`) at the ``small``est or the ``large``st batch; both must differ to be
    told apart."""
    sizes = sorted(runs["batch_size"].unique())
    if len(sizes) < 2:
        raise FlatlibError("batch_size: the claim compares at least two")
    return complete_cells(runs[runs["batch_size"] == sizes[{"small": 0, "large": -1}[which]]], by)
