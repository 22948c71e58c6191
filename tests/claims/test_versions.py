"""Values of two versions of a measure are never compared."""

import numpy as np
import pandas as pd
import pytest

from flatlib.claims import Prediction, above, trends
from flatlib.claims.concordance import stratified_kendall_tau
from flatlib.claims.study import MIXED, Study
from flatlib.claims.versions import MixedVersions, newest_version, of_one_version, versions


def table(**columns):
    """Two seeds of four runs."""
    seeds = [0, 0, 0, 0, 1, 1, 1, 1]
    return pd.DataFrame({"seed": seeds, "x": [1.0, 2.0, 3.0, 4.0] * 2, "status": "reached", "batch_size": 50} | columns)


NORMS = [1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0]
MIXED_SEED = table(frobenius=NORMS, frobenius_version=[np.nan, 2, np.nan, 2, 2, 2, 2, 2])
MIXED_SEEDS = table(frobenius=NORMS, frobenius_version=[np.nan] * 4 + [2] * 4)


def test_versions_by_column():
    runs = table(
        **{"frobenius_at_loss": NORMS, "frobenius_version_at_loss": [np.nan] * 4 + [2.0] * 4},
        **{"frobenius_per_parameter_at_loss": NORMS, "adaptive_sharpness": NORMS, "adaptive_sharpness_version": 2},
        **{"trace": NORMS, "trace_version": [np.nan] * 4 + [2.0] * 4, "trace_standard_error": [0.0, 0.1] * 4},
    )
    expected = [1.0] * 4 + [2.0] * 4
    assert versions(runs, "frobenius_at_loss").tolist() == expected
    assert versions(runs, "frobenius_per_parameter_at_loss").tolist() == expected
    assert versions(runs, "adaptive_sharpness").tolist() == [2.0] * 8
    assert versions(runs, "trace").dropna().tolist() == [1.0] * 2 + [2.0] * 2  # the exact ones are of every version
    assert versions(runs, "x").isna().all()
    assert versions(runs, "frobenius").isna().all()


@pytest.mark.parametrize(
    "statistic",
    [
        Study().kendall("x", "frobenius"),
        Study().kendall("frobenius", "x"),
        Study().slope("x", "frobenius", logy=True),
        Study().difference("frobenius", "x > 2", "x <= 2"),
        Study().log2_ratio("frobenius", "x > 2", "x <= 2"),
    ],
)
def test_statistics_refuse_mixed_seeds(statistic):
    assert len(statistic(MIXED_SEEDS)) == 2  # each seed's runs are of one version
    with pytest.raises(MixedVersions, match="frobenius: among the runs of seed 0 are values of different versions"):
        statistic(MIXED_SEED)
    judged = Prediction("p", "s", statistic, above(0), "r").judge(MIXED_SEED)
    assert (judged["n"], judged["verdict"]) == (0, "not tested here")


def test_tables_say_so():
    assert trends(MIXED_SEED, "x", ["frobenius"]).iloc[0, 1] == MIXED
    assert "n = 2" in trends(MIXED_SEEDS, "x", ["frobenius"]).iloc[0, 1]


def test_rank_correlations_keep_them_apart():
    runs = MIXED_SEEDS.assign(gap=MIXED_SEEDS["frobenius"] + 10 * MIXED_SEEDS["seed"])
    apart, together = (
        stratified_kendall_tau(t, "frobenius", "gap") for t in (runs, runs.drop(columns="frobenius_version"))
    )
    assert (apart.tau.estimate, apart.groups, apart.pairs) == (1.0, 2, 12)
    assert together.groups == 1
    assert together.tau.estimate < 1


def test_newest_version():
    assert newest_version(MIXED_SEEDS, "frobenius").isna().tolist() == [True] * 4 + [False] * 4
    assert newest_version(MIXED_SEEDS, "x").notna().all()
    assert of_one_version(MIXED_SEEDS, "x", "frobenius") is MIXED_SEEDS
