"""One number per seed: against values worked out by hand, with what is missing left out or named."""

from math import inf, nan

import pandas as pd
import pytest

from flatlib.claims.contrasts import log2_ratio_by_seed, mean_over_blocks, seed_differences, seed_taus, seeds
from flatlib.claims.selection import at_batch
from flatlib.errors import FlatlibError


def runs_of(*rows: tuple, columns=("seed", "x", "y")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


def same(found: pd.Series, expected: dict) -> None:
    assert found.to_dict() == pytest.approx(expected, nan_ok=True)


def test_tau_by_hand():
    runs = runs_of((7, 0.0, 1.0), (3, 0.1, 4.0), (3, 0.2, 2.0), (3, 0.3, 1.0), (3, 0.4, 3.0), (7, 0.5, 2.0))
    same(seed_taus(runs, "x", "y"), {3: (2 - 4) / 6, 7: 1.0})


@pytest.mark.parametrize("missing", [nan, inf, None])
def test_tau_leaves_out_what_is_not_finite(missing):
    runs = runs_of((0, 1, 1.0), (0, 2, missing), (0, 3, 3.0), (1, 1, missing), (1, 2, 5.0), (2, missing, 1), (2, 1, 2))
    same(seed_taus(runs, "x", "y"), {0: 1.0, 1: nan, 2: nan})


def test_tau_of_a_constant_is_silent():
    runs = runs_of((0, 1, 5.0), (0, 2, 5.0), (1, 3, 1.0), (1, 3, 2.0))
    same(seed_taus(runs, "x", "y"), {0: nan, 1: nan})
    same(seed_taus(runs.iloc[:0], "x", "y"), {})


UNBALANCED = runs_of(
    (0, 1, 8.0), (0, 1, 2.0), (0, 1, 1.0), (0, 0, 4.0), (1, 1, 16.0), (1, 0, 1.0), (1, 0, 4.0), (2, 1, 3)
)


def test_groups_need_not_be_of_one_size():
    high, low = UNBALANCED["x"] == 1, UNBALANCED["x"] == 0
    same(seed_differences(UNBALANCED, "y", high, low), {0: 11 / 3 - 4, 1: 16 - 2.5, 2: nan})
    same(log2_ratio_by_seed(UNBALANCED, "y", high, low), {0: 4 / 3 - 2, 1: 4 - 1, 2: nan})
    assert seeds(UNBALANCED) == [0, 1, 2]


@pytest.mark.parametrize("missing", [nan, inf])
@pytest.mark.parametrize("statistic", [seed_differences, log2_ratio_by_seed])
def test_what_is_not_finite_is_left_out_of_a_mean(statistic, missing):
    """A run that was measured for something else is no reason to lose its seed."""
    known = runs_of((0, 1, 8.0), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0))
    more = runs_of((0, 1, missing), (0, 0, missing), (0, 2, missing))
    both = pd.concat([known, more], ignore_index=True)
    expected = statistic(known, "y", known["x"] == 1, known["x"] == 0)
    same(statistic(both, "y", both["x"] == 1, both["x"] == 0), expected.to_dict())
    lost = both.assign(y=both["y"].where((both["seed"] == 0) | (both["x"] == 1), missing))
    same(statistic(lost, "y", lost["x"] == 1, lost["x"] == 0), {0: expected[0], 1: nan})


@pytest.mark.parametrize("statistic", [seed_differences, log2_ratio_by_seed])
def test_a_measure_that_no_run_has_is_silent(statistic):
    runs = UNBALANCED.assign(y=None)
    same(statistic(runs, "y", runs["x"] == 1, runs["x"] == 0), {0: nan, 1: nan, 2: nan})


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_seed_with_a_value_that_has_no_logarithm_is_silent(value):
    runs = runs_of((0, 1, 8.0), (0, 1, value), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0), (1, 2, value))
    found = log2_ratio_by_seed(runs, "y", runs["x"] == 1, runs["x"] == 0)
    same(found, {0: nan, 1: 2.0})  # that of seed 1 is in neither group


def test_a_mean_over_groups_leaves_out_a_group_without_an_answer():
    rows = [("a", 0, 1, 5.0), ("a", 0, 0, 1.0), ("b", 0, 1, 3.0), ("b", 0, 0, 1.0), ("b", 1, 1, 9.0), ("b", 1, 0, 2.0)]
    rows += [("a", 1, 1, 7.0), ("c", 2, 1, 1.0), ("c", 0, 1, 9.0), ("c", 0, 0, 0.0)]
    runs = runs_of(*rows, columns=("group", "seed", "x", "y"))
    found = mean_over_blocks(runs, ["group"], lambda part: seed_differences(part, "y", part["x"] == 1, part["x"] == 0))
    same(found, {0: (4 + 2 + 9) / 3, 1: 7.0, 2: nan})
    assert mean_over_blocks(runs.iloc[:0], ["group"], lambda part: part["y"]).empty


def test_only_what_shares_the_settings_is_compared():
    runs = runs_of(
        ("a", 0, 1, 2.0), ("a", 0, 2, 1.0), ("b", 0, 3, 9.0), ("b", 0, 4, 8.0), columns=("g", "seed", "x", "y")
    )
    same(mean_over_blocks(runs, ["g"], lambda part: seed_taus(part, "x", "y")), {0: -1.0})
    same(seed_taus(runs, "x", "y"), {0: 1 / 3})


BATCHES = pd.DataFrame(
    [(size, rate, seed, "reached") for size in (50, 250, 1000) for rate in (0.1, 0.2) for seed in (0, 1)],
    columns=["batch_size", "learning_rate", "seed", "status"],
)


@pytest.mark.parametrize(("which", "size"), [("small", 50), ("large", 1000)])
def test_complete_settings_at_one_batch(which, size):
    shuffled = BATCHES.sample(frac=1, random_state=0)
    kept = at_batch(shuffled, which, ["batch_size", "learning_rate"])
    assert (set(kept["batch_size"]), len(kept)) == ({size}, 4)
    missed = (shuffled["batch_size"] == size) & (shuffled["learning_rate"] == 0.2) & (shuffled["seed"] == 1)
    capped = shuffled.assign(status=shuffled["status"].mask(missed, "capped"))
    kept = at_batch(capped, which, ["batch_size", "learning_rate"])
    assert (set(kept["batch_size"]), kept["learning_rate"].tolist()) == ({size}, [0.1, 0.1])


def test_a_batch_that_nobody_trained_to_the_stop_rule_is_not_replaced_by_the_next():
    runs = BATCHES.assign(status=BATCHES["status"].mask(BATCHES["batch_size"] == 50, "capped"))
    assert at_batch(runs, "small", ["batch_size", "learning_rate"]).empty


def test_one_batch_size_is_neither_small_nor_large():
    with pytest.raises(FlatlibError, match="batch_size: the claim compares at least two"):
        at_batch(BATCHES.query("batch_size == 50"), "small", ["batch_size", "learning_rate"])
