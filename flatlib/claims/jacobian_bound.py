"""Theorem 5.1 of MacDonald et al. 2023 in numbers: how large the Jacobian must be somewhere, and how large it is."""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from flatlib.claims.setting_means import MISSING
from flatlib.config import RunConfig

OF_MODEL = {"cross_entropy": "softmax_jacobian_norm", "squared": "jacobian_norm"}  # of what each loss sets to targets
BOUND = "jacobian_lower_bound"
MEASURES = (BOUND, "jacobian_norms")
HEADINGS = {
    "largest misfit": f"{BOUND}_misfit",
    "lower bound": BOUND,
    "lower bound when fitted": f"{BOUND}_fitted",
    "steepest pair of outputs": f"{BOUND}_quotient",
    "Jacobian norm": "norm",
}


def measured_at_end(runs: list[RunConfig]) -> list[RunConfig]:
    """Return the runs of the first seed, with the bound at their end as the only measure beside the Jacobian."""
    first = [run for run in runs if run.seed == runs[0].seed]
    return [replace(run, measures=MEASURES, track=(), track_every=None, track_time=None) for run in first]


def model_norm(runs: pd.DataFrame) -> pd.Series:
    """Return the largest Jacobian norm of the model that the theorem is about: softmaxed for the cross-entropy."""
    softmaxed, plain = (runs[OF_MODEL[loss]].astype(float) for loss in ("cross_entropy", "squared"))
    return softmaxed.where(runs["loss"] == "cross_entropy", plain)


def bound_table(runs: pd.DataFrame, by: Iterable[str]) -> pd.DataFrame:
    """Return the theorem's term and the Jacobian norm for each run of the first seed that measured both.

    Args:
        runs: Table of runs.
        by: The settings that tell its runs apart.
    """
    kept = runs[runs[BOUND].notna()] if BOUND in runs else runs.iloc[:0]
    if kept.empty:
        return pd.DataFrame({"lower bound": [MISSING]})
    names = list(by)
    kept = kept[kept["seed"] == kept["seed"].min()].sort_values(names)
    kept = kept.assign(norm=model_norm(kept))
    settings = {name.replace("_", " "): kept[name].astype(str).str.replace("_", "-") for name in names}
    numbers = {heading: kept[column].astype(float).map("{:.3g}".format) for heading, column in HEADINGS.items()}
    return pd.DataFrame(settings | numbers).reset_index(drop=True)


def times_the_bound(runs: pd.DataFrame) -> str:
    """Return for prose how many times the bound when fitted the Jacobian norm is: the range over these runs."""
    if BOUND not in runs or runs[BOUND].isna().all():
        return MISSING
    kept = runs[runs[BOUND].notna()]
    kept = kept[kept["seed"] == kept["seed"].min()]
    times = model_norm(kept) / kept[f"{BOUND}_fitted"].astype(float)
    return f"{times.min():.2g} to {times.max():.2g}"
