"""Runs of the page on disagreements: published ones, and the same with what the other reading of a paper says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from flatlib.config import RunConfig
from flatlib.runs import records
from flatlib.stats import Interval, bootstrap_mean

SCALE = "small"
SEEDS = range(100, 105)


class Reading(NamedTuple):
    """Another reading of a setting.

    chapter: whose record has the published runs.
    concerns: which of them the setting matters to.
    instead: the same run by the other reading.
    """

    chapter: str
    concerns: Callable[[RunConfig], bool]
    instead: Callable[[RunConfig], RunConfig]


READINGS = {
    "twice the decay": Reading(
        "06_weight_decay",
        lambda run: run.weight_decay > 0 and "lambda_max" in run.measures,
        lambda run: replace(run, weight_decay=2 * run.weight_decay),
    ),
    "twice the rate": Reading(
        "07_adam_vs_sgd",
        lambda run: run.averaging_learning_rate is not None and "lambda_max" in run.measures,
        lambda run: replace(run, averaging_learning_rate=2 * run.learning_rate),
    ),
    "a tenth of the rate": Reading(
        "10_minimum_sharpness",
        lambda run: run.optimizer == "heavy_ball",
        lambda run: replace(run, learning_rate=0.01),
    ),
}


def pairs(root: Path, reading: str) -> list[tuple[RunConfig, RunConfig]]:
    """Each published run that a reading concerns, and the run by the other reading, at the scale `SCALE`."""
    chapter, concerns, instead = READINGS[reading]
    lines = records.read(root / "book" / "records" / chapter / f"{SCALE}.jsonl").values()
    published = [RunConfig.from_json(line["config"]) for line in lines]
    return [(run, instead(run)) for run in published if run.seed in SEEDS and concerns(run)]


def wanted(root: Path) -> list[RunConfig]:
    """All runs by other readings, to be trained."""
    return [other for reading in READINGS for _, other in pairs(root, reading)]


def both(root: Path, reading: str) -> pd.DataFrame:
    """The runs by both readings, one row for each pair: the columns of `flatlib.runs.records.table`, those of the other
    reading with ``_other`` behind. Pairs of which a run is not there or diverged are missing."""
    folder = root / "book" / "records"
    files = [folder / READINGS[reading].chapter / f"{SCALE}.jsonl", folder / "ledger" / f"{SCALE}.jsonl"]
    published, others = (records.table(records.read(file).values()).set_index("run_id") for file in files)
    rows = [
        {**published.loc[one.run_id], **others.loc[other.run_id].add_suffix("_other")}
        for one, other in pairs(root, reading)
        if one.run_id in published.index and other.run_id in others.index
    ]
    table = pd.DataFrame(rows)
    return table[(table["status"] != "diverged") & (table["status_other"] != "diverged")]


def points(runs: pd.DataFrame) -> Interval:
    """Points of test accuracy by which the other reading is better, mean over the pairs."""
    return bootstrap_mean(100 * (runs["test_accuracy_other"] - runs["test_accuracy"]))


def factor(runs: pd.DataFrame, sharpness: str) -> Interval:
    """Times as sharp by the other reading, geometric mean over the pairs."""
    log = bootstrap_mean(np.log((runs[f"{sharpness}_other"] / runs[sharpness]).astype(float)))
    return replace(log, **{end: float(np.exp(getattr(log, end))) for end in ("estimate", "low", "high")})
