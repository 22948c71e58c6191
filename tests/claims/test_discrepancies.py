"""Other readings of a paper: which runs they are, and what they change."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from flatlib.book.paths import find_root
from flatlib.claims import discrepancies
from flatlib.claims.discrepancies import VARIANTS, paired_configs, paired_runs, sharpness_ratio
from flatlib.config import RunConfig
from flatlib.runs import records

ROOT = find_root()
CHANGED = {
    "twice the decay": ("weight_decay", 2.0),
    "twice the rate": ("averaging_learning_rate", 4.0),  # published is half the rate
    "a tenth of the rate": ("learning_rate", 0.1),
}


@pytest.mark.parametrize("reading", VARIANTS)
def test_one_setting_is_changed(reading):
    name, ratio = CHANGED[reading]
    found = paired_configs(ROOT, reading)
    assert len({one.seed for one, _ in found}) == 5
    for one, other in found:
        assert {f.name for f in fields(RunConfig) if getattr(one, f.name) != getattr(other, f.name)} == {name}
        assert getattr(other, name) == pytest.approx(ratio * getattr(one, name))


def test_records_hold_exactly_these_runs():
    lines = records.read(ROOT / "book" / "records" / "ledger" / f"{discrepancies.SCALE}.jsonl")
    assert set(lines) == {run.run_id for run in discrepancies.variant_configs(ROOT)}


@pytest.mark.parametrize("reading", VARIANTS)
def test_readings_are_paired(reading):
    runs = paired_runs(ROOT, reading)
    assert len(runs) == len(paired_configs(ROOT, reading))
    assert (runs["seed"] == runs["seed_other"]).all()
    assert (runs["status"] != "diverged").all()


def test_differences_between_readings():
    accuracy, gains = np.array([[0.5, 0.6, 0.7, 0.8, 0.9], [0.01, 0.02, 0.03, 0.04, 0.05]])
    runs = pd.DataFrame({"test_accuracy": accuracy, "test_accuracy_other": accuracy + gains})
    assert discrepancies.accuracy_difference(runs).estimate == pytest.approx(3)
    runs = runs.assign(lambda_max=2.0, lambda_max_other=[4.0, 1.0, 8.0, 2.0, 4.0])
    found = sharpness_ratio(runs, "lambda_max")
    assert found.estimate == pytest.approx(2 ** (3 / 5))
    assert 0.5 <= found.low < found.estimate < found.high <= 4
    equal = sharpness_ratio(runs.assign(lambda_max_other=2.0), "lambda_max")
    assert equal == replace(found, estimate=1.0, low=1.0, high=1.0)
