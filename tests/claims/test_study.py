"""Statistics of a study and of its seeds: against values worked out by hand, missing values excluded or named."""

from math import inf, nan

import numpy as np
import pandas as pd
import pytest

from flatlib.claims import Statistic, Study, trends
from flatlib.errors import FlatlibError
from flatlib.stats import UNDEFINED, seed_differences, seed_log2_ratios, seed_taus


def table(*rows: tuple, columns=("seed", "x", "y")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).assign(status="reached")


def same(found: pd.Series, expected: dict) -> None:
    assert found.to_dict() == pytest.approx(expected, nan_ok=True)


def test_tau_by_hand():
    runs = table((7, 0.0, 1.0), (3, 0.1, 4.0), (3, 0.2, 2.0), (3, 0.3, 1.0), (3, 0.4, 3.0), (7, 0.5, 2.0))
    same(seed_taus(runs, "x", "y"), {3: (2 - 4) / 6, 7: 1.0})


@pytest.mark.parametrize("missing", [nan, inf, None])
def test_tau_excludes_values_that_are_not_finite(missing):
    runs = table((0, 1, 1.0), (0, 2, missing), (0, 3, 3.0), (1, 1, missing), (1, 2, 5.0), (2, missing, 1), (2, 1, 2))
    same(seed_taus(runs, "x", "y"), {0: 1.0, 1: nan, 2: nan})


def test_tau_of_a_constant_is_undefined():
    runs = table((0, 1, 5.0), (0, 2, 5.0), (1, 3, 1.0), (1, 3, 2.0))
    same(seed_taus(runs, "x", "y"), {0: nan, 1: nan})
    same(seed_taus(runs.iloc[:0], "x", "y"), {})


UNBALANCED = table(
    (0, 1, 8.0), (0, 1, 2.0), (0, 1, 1.0), (0, 0, 4.0), (1, 1, 16.0), (1, 0, 1.0), (1, 0, 4.0), (2, 1, 3.0)
)
BOTH = pytest.mark.parametrize("statistic", [seed_differences, seed_log2_ratios])


def test_differences_of_unequal_groups():
    high, low = UNBALANCED["x"] == 1, UNBALANCED["x"] == 0
    same(seed_differences(UNBALANCED, "y", high, low), {0: 11 / 3 - 4, 1: 16 - 2.5, 2: nan})
    same(seed_log2_ratios(UNBALANCED, "y", high, low), {0: 4 / 3 - 2, 1: 4 - 1, 2: nan})
    study = Study()
    same(study.difference("y", "x == 1", "x == 0")(UNBALANCED), {0: 100 * (11 / 3 - 4), 1: 1350, 2: nan})
    same(study.log2_ratio("y", "x == 1", "x == 0")(UNBALANCED), {0: 4 / 3 - 2, 1: 3, 2: nan})


@pytest.mark.parametrize("missing", [nan, inf])
@BOTH
def test_a_run_without_the_measure_keeps_its_seed(statistic, missing):
    known = table((0, 1, 8.0), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0))
    both = pd.concat([known, table((0, 1, missing), (0, 0, missing), (0, 2, missing))], ignore_index=True)
    expected = statistic(known, "y", known["x"] == 1, known["x"] == 0)
    same(statistic(both, "y", both["x"] == 1, both["x"] == 0), expected.to_dict())
    lost = both.assign(y=both["y"].where((both["seed"] == 0) | (both["x"] == 1), missing))
    same(statistic(lost, "y", lost["x"] == 1, lost["x"] == 0), {0: expected[0], 1: nan})


@BOTH
def test_a_measure_that_no_run_has_is_undefined(statistic):
    runs = UNBALANCED.assign(y=None)
    same(statistic(runs, "y", runs["x"] == 1, runs["x"] == 0), {0: nan, 1: nan, 2: nan})


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_ratio_without_logarithm_is_undefined(value):
    runs = table((0, 1, 8.0), (0, 1, value), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0), (1, 2, value))
    same(seed_log2_ratios(runs, "y", runs["x"] == 1, runs["x"] == 0), {0: nan, 1: 2.0})  # of seed 1, in neither group


def test_a_block_without_a_value_is_excluded():
    rows = [("a", 0, 1, 5.0), ("a", 0, 0, 1.0), ("b", 0, 1, 3.0), ("b", 0, 0, 1.0), ("b", 1, 1, 9.0), ("b", 1, 0, 2.0)]
    rows += [("a", 1, 1, 7.0), ("c", 2, 1, 1.0), ("c", 0, 1, 9.0), ("c", 0, 0, 0.0)]
    runs = table(*rows, columns=("group", "seed", "x", "y"))
    gain = Study(blocks=("group",)).difference("y", "x == 1", "x == 0")
    same(gain(runs), {0: 100 * (4 + 2 + 9) / 3, 1: 700, 2: nan})
    same(gain.map_blocks(lambda numbers: -numbers, "loss")(runs), {0: -5, 1: -7, 2: nan})
    assert gain(runs.iloc[:0]).empty


def test_only_runs_of_one_block_are_compared():
    runs = table(
        ("a", 0, 1, 2.0), ("a", 0, 2, 1.0), ("b", 0, 3, 9.0), ("b", 0, 4, 8.0), columns=("g", "seed", "x", "y")
    )
    same(Study(blocks=("g",)).kendall("x", "y")(runs), {0: -1.0})
    same(Study().kendall("x", "y")(runs), {0: 1 / 3})
    same((Study().kendall("x", "y") - Study(blocks=("g",)).kendall("x", "y"))(runs), {0: 4 / 3})


def test_slopes_are_in_points_or_decades():
    runs = table(*((0, x, 0.5 * x**0.5) for x in (1.0, 10.0, 100.0)))
    same(Study().slope("x", "y", logy=True)(runs), {0: 0.5})
    same(Study().slope("x", "y")(runs), {0: 100 * 0.5 * (10 - 1) / 2})


def test_a_statistic_has_its_unit():
    study = Study()
    units = [study.slope("x", "lambda_max", logy=True).unit, study.difference("test_accuracy", "", "").unit]
    assert units == ["decades of λ_max per decade of x", "points of test accuracy"]
    assert study.kendall("sam_rho", "lambda_max").measured_in("τ").unit == "τ"
    assert study.log2_ratio("frobenius", "", "", " from A to B").unit == "doublings of the Frobenius norm from A to B"


def test_a_condition_on_a_missing_column_is_named():
    with pytest.raises(FlatlibError, match="rho"):
        Study().difference("y", "rho > 0", "rho == 0")(UNBALANCED)


BATCHES = pd.DataFrame(
    [(size, rate, seed, "reached") for size in (50, 250, 1000) for rate in (0.1, 0.2) for seed in (0, 1)],
    columns=["batch_size", "learning_rate", "seed", "status"],
)
RATES = Study(settings=("batch_size", "learning_rate"))


@pytest.mark.parametrize(("which", "size"), [("small", 50), ("large", 1000)])
def test_complete_settings_at_one_batch(which, size):
    shuffled = BATCHES.sample(frac=1, random_state=0)
    kept = RATES.at(which).select(shuffled)
    assert (set(kept["batch_size"]), len(kept)) == ({size}, 4)
    missed = shuffled.eval(f"batch_size == {size} and learning_rate == 0.2 and seed == 1")
    kept = RATES.at(which).select(shuffled.assign(status=shuffled["status"].mask(missed, "capped")))
    assert (set(kept["batch_size"]), kept["learning_rate"].tolist()) == ({size}, [0.1, 0.1])


def test_a_capped_batch_is_not_replaced():
    runs = BATCHES.assign(status=BATCHES["status"].mask(BATCHES["batch_size"] == 50, "capped"))
    assert RATES.at("small").select(runs).empty


def test_one_batch_size_is_neither_small_nor_large():
    with pytest.raises(FlatlibError, match="batch_size"):
        RATES.at("small").select(BATCHES.query("batch_size == 50"))


def test_a_setting_counts_with_its_pair_only():
    capped = BATCHES.assign(
        status=BATCHES["status"].mask(BATCHES.eval("batch_size > 50 and learning_rate == 0.2"), "capped")
    )
    paired = Study(settings=("batch_size", "learning_rate"), paired="batch_size")
    assert set(paired.select(capped)["learning_rate"]) == {0.1}
    assert Statistic(paired, lambda runs: runs.groupby("seed").size(), "runs")(capped).tolist() == [3, 3]


RHOS = [0.0, 0.05, 0.2]


def radii() -> pd.DataFrame:
    """lambda_max falls with the radius at the small batch, rises at the large one, and is larger at the small rate."""
    rows = [
        {"batch_size": size, "learning_rate": rate, "sam_rho": rho, "seed": seed, "status": "reached"}
        | {"lambda_max": (10 + (rho if size == 500 else -rho)) / rate, "trace": np.nan, "weight_norm": 2.0}
        for size in (20, 500)
        for rate in (0.1, 0.01)
        for rho in RHOS
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def test_trends_compare_within_the_held_settings():
    shown = trends(radii(), "sam_rho", ["lambda_max"], held=["learning_rate"])
    assert shown.to_dict("records") == [
        {"measure": "lambda max", "batch size 20": "-1 [-1, -1], n = 5", "batch size 500": "1 [1, 1], n = 5"}
    ]
    mixed = trends(radii(), "sam_rho", ["lambda_max"])["batch size 20"].item()
    assert float(mixed.split()[0]) == pytest.approx(-6 / np.sqrt(15 * 12), abs=0.005)  # the rates differ far more


def test_trends_exclude_a_setting_that_lost_a_seed():
    runs = radii()
    runs.loc[runs.eval("sam_rho == 0.2 and seed == 3 and batch_size == 20"), "status"] = "capped"
    runs.loc[runs.eval("sam_rho == 0.2 and batch_size == 20"), "lambda_max"] = 1e9  # would turn the order round
    shown = trends(runs, "sam_rho", ["lambda_max"], held=["learning_rate"])
    assert shown["batch size 20"].tolist() == ["-1 [-1, -1], n = 5"]


def test_trends_of_what_is_constant_are_undefined():
    assert trends(radii(), "sam_rho", ["trace", "weight_norm"])["batch size 500"].tolist() == [UNDEFINED] * 2
