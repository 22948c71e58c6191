"""Seeds that would decide an open prediction, against an interval computed by scipy, and their cost."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from flatlib.claims import CLAIMS, Claim, Prediction, Statistic, Study, above, between
from flatlib.claims.power import DESIGN, NULL, nearest_threshold, power_plan, seeds_to_decide
from synthetic_runs import lr_runs


@pytest.mark.parametrize(("mean", "sd", "threshold"), [(-1.27, 1.34, 0), (1.21, 1.06, 0.5), (0.76, 0.31, 0.5)])
def test_students_interval_excludes_the_threshold_from_there_on(mean, sd, threshold):
    n = seeds_to_decide(mean, sd, threshold)
    for seeds, excludes in ((n, True), (n - 1, False)):
        low, high = t.interval(0.95, seeds - 1, mean, sd / np.sqrt(seeds))
        assert (not low < threshold < high) == excludes


def test_effects_without_end_have_no_plan():
    assert seeds_to_decide(0.1, 1.0, 0) is None
    assert seeds_to_decide(0.0, 0.0, 0) is None
    assert seeds_to_decide(1.0, 0.1, 0, fewest=6) == 6
    assert [nearest_threshold(between(-1, 1), mean) for mean in (-1.2, 0.9)] == [-1, 1]


def plan(values: list[float], **more) -> dict:
    """The plan of one prediction from its numbers, one per seed; every run takes a minute, and half of them count."""
    study = Study(prepare=lambda runs: runs[runs["kept"]])
    statistic = Statistic(study, lambda runs: runs.groupby("seed")["x"].mean(), "")
    runs = pd.DataFrame({"seed": [*range(len(values))] * 2, "x": values * 2, "status": "reached"})
    runs = runs.assign(kept=[True] * len(values) + [False] * len(values), run_id=runs.index.astype(str))
    claim = Claim("99_x", "", "", (Prediction("p", "", statistic, above(0), "", **more),))
    (row,) = power_plan(claim, runs, pd.Series(60.0, index=runs["run_id"])).to_dict("records") or [{}]
    return row


def test_plan_names_threshold_seeds_and_minutes():
    row = plan([1.0, 2.0, 0.5, -0.2, 1.7])
    assert (row["threshold"], row["n"], row["remark"]) == (0, 5, "")
    assert row["seeds"] == seeds_to_decide(row["mean"], row["sd"], 0, 6)
    assert row["minutes"] == row["seeds"] - 5
    assert plan([1.0, 2.0, 0.5, 0.2, 1.7]) == {}, "it is decided"
    row = plan([0.1, -0.1, 0.2, -0.2, 0.1])
    assert (np.isnan(row["seeds"]), row["minutes"], row["remark"]) == (True, 15, DESIGN)
    assert plan([0.1, -0.1, 0.2, -0.2, 0.1], smallest=1)["remark"] == NULL


def test_decided_claim_needs_no_seeds():
    runs = lr_runs(True)
    assert power_plan(CLAIMS["01_lr_batch"], runs, pd.Series(1.0, index=runs["run_id"])).empty
