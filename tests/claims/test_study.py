"""Which runs a study selects and compares, against values worked out by hand."""

from math import nan

import numpy as np
import pandas as pd
import pytest

from flatlib.claims import Statistic, Study, complete_cells, exclusions, trends
from flatlib.errors import FlatlibError
from flatlib.stats import UNDEFINED
from synthetic_runs import without


def table(*rows: tuple, columns=("seed", "x", "y")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).assign(status="reached")


def same(found: pd.Series, expected: dict) -> None:
    assert found.to_dict() == pytest.approx(expected, nan_ok=True)


UNBALANCED = table(
    (0, 1, 8.0), (0, 1, 2.0), (0, 1, 1.0), (0, 0, 4.0), (1, 1, 16.0), (1, 0, 1.0), (1, 0, 4.0), (2, 1, 3.0)
)


def test_differences_of_unequal_groups():
    study = Study()
    same(study.difference("y", "x == 1", "x == 0")(UNBALANCED), {0: 100 * (11 / 3 - 4), 1: 1350, 2: nan})
    same(study.log2_ratio("y", "x == 1", "x == 0")(UNBALANCED), {0: 4 / 3 - 2, 1: 3, 2: nan})


def test_undefined_block_is_excluded():
    rows = [("a", 0, 1, 5.0), ("a", 0, 0, 1.0), ("b", 0, 1, 3.0), ("b", 0, 0, 1.0), ("b", 1, 1, 9.0), ("b", 1, 0, 2.0)]
    rows += [("a", 1, 1, 7.0), ("c", 2, 1, 1.0), ("c", 0, 1, 9.0), ("c", 0, 0, 0.0)]
    runs = table(*rows, columns=("group", "seed", "x", "y"))
    gain = Study(blocks=("group",)).difference("y", "x == 1", "x == 0")
    same(gain(runs), {0: 100 * (4 + 2 + 9) / 3, 1: 700, 2: nan})
    same(gain.map_blocks(lambda numbers: -numbers, "loss")(runs), {0: -5, 1: -7, 2: nan})
    assert gain(runs.iloc[:0]).empty


def test_blocks_are_compared_apart():
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


def test_statistic_names_its_unit():
    study = Study()
    units = [study.slope("x", "lambda_max", logy=True).unit, study.difference("test_accuracy", "", "").unit]
    assert units == ["decades of λ_max per decade of x", "points of test accuracy"]
    assert study.kendall("sam_rho", "lambda_max").measured_in("τ").unit == "τ"
    assert study.log2_ratio("frobenius", "", "", " from A to B").unit == "doublings of the Frobenius norm from A to B"


def test_missing_condition_column_is_named():
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
    missed = without(shuffled, f"batch_size == {size} and learning_rate == 0.2 and seed == 1")
    kept = RATES.at(which).select(missed)
    assert (set(kept["batch_size"]), kept["learning_rate"].tolist()) == ({size}, [0.1, 0.1])


def test_incomplete_setting_is_excluded_and_counted():
    by = ["batch_size", "learning_rate"]
    runs = without(BATCHES, "batch_size == 50 and learning_rate == 0.2 and seed == 1")
    assert complete_cells(runs, by).index.tolist() == [0, 1, *range(4, 12)]
    counted = exclusions(runs, by).set_index(by)
    assert counted.loc[(50, 0.2)].to_dict() == {"reached": 1, "capped": 1, "diverged": 0, "counts": "no"}
    assert (counted["counts"] == "yes").sum() == 5
    assert counted[["reached", "capped", "diverged"]].to_numpy().sum() == len(runs)


def test_batch_is_not_replaced():
    assert RATES.at("small").select(without(BATCHES, "batch_size == 50")).empty
    with pytest.raises(FlatlibError, match="batch_size"):
        RATES.at("small").select(BATCHES.query("batch_size == 50"))


def test_setting_counts_with_its_pair():
    capped = without(BATCHES, "batch_size > 50 and learning_rate == 0.2")
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


def test_trends_compare_within_held_settings():
    shown = trends(radii(), "sam_rho", ["lambda_max"], held=["learning_rate"])
    assert shown.to_dict("records") == [
        {"measure": "lambda max", "batch size 20": "-1, all 5 seeds", "batch size 500": "1, all 5 seeds"}
    ]
    mixed = trends(radii(), "sam_rho", ["lambda_max"])["batch size 20"].item()
    assert float(mixed.split(",")[0]) == pytest.approx(-6 / np.sqrt(15 * 12), abs=0.005)  # the rates differ far more


def test_trends_exclude_incomplete_settings():
    runs = without(radii(), "sam_rho == 0.2 and seed == 3 and batch_size == 20")
    runs.loc[runs.eval("sam_rho == 0.2 and batch_size == 20"), "lambda_max"] = 1e9  # would turn the order round
    shown = trends(runs, "sam_rho", ["lambda_max"], held=["learning_rate"])
    assert shown["batch size 20"].tolist() == ["-1, all 5 seeds"]


def test_trends_of_constants_are_undefined():
    assert trends(radii(), "sam_rho", ["trace", "weight_norm"])["batch size 500"].tolist() == [UNDEFINED] * 2
