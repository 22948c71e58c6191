"""Sensitivity to the reading of a paper: published runs, and the same runs by another reading of one setting."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flatlib.config import RunConfig
from flatlib.runs import records
from flatlib.stats import Interval, bootstrap_mean

SCALE = "small"  # whose published runs are repeated


class Variant(NamedTuple):
    """Another reading of a setting.

    Attributes:
        chapter: The chapter whose record has the published runs.
        applies: Returns whether the setting matters to a run.
        change: Returns the settings of a run that the other reading changes.
    """

    chapter: str
    applies: Callable[[RunConfig], bool]
    change: Callable[[RunConfig], dict[str, Any]]


VARIANTS = {
    "twice the decay": Variant(
        "06_weight_decay",
        lambda run: run.weight_decay > 0 and "lambda_max" in run.measures,
        lambda run: {"weight_decay": 2 * run.weight_decay},
    ),
    "twice the rate": Variant(
        "07_adam_vs_sgd",
        lambda run: run.averaging_learning_rate is not None and "lambda_max" in run.measures,
        lambda run: {"averaging_learning_rate": 2 * run.learning_rate},
    ),
    "a tenth of the rate": Variant(
        "10_minimum_sharpness", lambda run: run.optimizer == "heavy_ball", lambda run: {"learning_rate": 0.01}
    ),
}


def _lines(root: Path, folder: str) -> Collection[dict]:
    """Return the lines of a folder's record."""
    return records.read(root / "book" / "records" / folder / f"{SCALE}.jsonl").values()


def paired_configs(root: Path, variant: str) -> list[tuple[RunConfig, RunConfig]]:
    """Return each published run that a variant applies to, and the run by the other reading."""
    chapter, applies, change = VARIANTS[variant]
    lines = _lines(root, chapter)
    published = [RunConfig.from_json(line["config"]) for line in lines]
    return [(run, replace(run, **change(run))) for run in published if applies(run)]


def variant_configs(root: Path) -> list[RunConfig]:
    """Return all runs by other readings, to be trained."""
    return [other for variant in VARIANTS for _, other in paired_configs(root, variant)]


def paired_runs(root: Path, variant: str) -> pd.DataFrame:
    """Return the runs by both readings, one row for each pair; pairs with a missing or diverged run are excluded.

    The columns are those of :func:`flatlib.runs.records.table`, for the other reading with the ending ``_other``.
    """
    folders = (VARIANTS[variant].chapter, "ledger")
    published, others = (records.table(_lines(root, folder)).set_index("run_id") for folder in folders)
    rows = [
        {**published.loc[one.run_id], **others.loc[other.run_id].add_suffix("_other")}
        for one, other in paired_configs(root, variant)
        if one.run_id in published.index and other.run_id in others.index
    ]
    table = pd.DataFrame(rows)
    return table[(table["status"] != "diverged") & (table["status_other"] != "diverged")]


def accuracy_difference(runs: pd.DataFrame) -> Interval:
    """Return the points of test accuracy by which the other reading is better, as a mean over the pairs."""
    return bootstrap_mean(100 * (runs["test_accuracy_other"] - runs["test_accuracy"]))


def sharpness_ratio(runs: pd.DataFrame, sharpness: str) -> Interval:
    """Return the sharpness by the other reading over the published one, as a geometric mean over the pairs."""
    log = bootstrap_mean(np.log((runs[f"{sharpness}_other"] / runs[sharpness]).astype(float)))
    estimate, low, high = np.exp([log.estimate, log.low, log.high]).tolist()
    return Interval(estimate, low, high, log.n, log.level)
