"""Statistics over seeds: coverage by simulation, slopes and differences on data whose answer is known."""

from itertools import product
from math import inf, nan

import numpy as np
import pandas as pd
import pytest

from flatlib.errors import FlatlibError
from flatlib.stats import (
    Interval,
    bootstrap_mean,
    kendall_tau,
    seed_differences,
    seed_log2_ratios,
    seed_slopes,
    seed_taus,
)


@pytest.mark.parametrize(
    ("law", "mean", "shape", "options", "least", "most"),
    [
        ("normal", 0.0, (10_000, 5), {}, 0.92, 0.95),  # measured: 0.9265
        ("exponential", 1.0, (10_000, 5), {}, 0.86, 0.95),  # measured: 0.8684
        ("normal", 0.0, (10_000, 3), {}, 0.74, 0.76),
        ("normal", 0.0, (1000, 8), {"resamples": 4000}, 0.93, 0.97),  # resamples drawn, not all of them
    ],
)
def test_coverage_by_simulation(law, mean, shape, options, least, most):
    """The share of samples whose 95 % interval holds the true mean."""
    intervals = [bootstrap_mean(row, **options) for row in getattr(np.random.default_rng(1), law)(size=shape)]
    assert least <= np.mean([interval.low <= mean <= interval.high for interval in intervals]) <= most


def test_exact_interval_enumerates_resamples():
    values = np.array([0.3, 1.1, 1.2, 4.0])
    means = np.array([np.mean(draw) for draw in product(values, repeat=4)])
    interval = bootstrap_mean(values, level=0.5)
    tail = 0.1884  # Φ(-√(4/3) · t with 3 degrees of freedom at 0.75) = Φ(-1.1547 · 0.76489)
    expected = np.quantile(means, [tail, 1 - tail], method="inverted_cdf")
    assert [interval.low, interval.high] == pytest.approx(expected)
    assert interval.estimate == pytest.approx(values.mean())


@pytest.mark.parametrize("n", [5, 9])
def test_interval_ignores_order(n):
    values = np.random.default_rng(0).normal(size=n)
    assert bootstrap_mean(values) == bootstrap_mean(values[::-1])


def test_intervals_without_any_spread():
    assert bootstrap_mean([2.5]) == Interval(2.5, -inf, inf, 1, 0.95)
    assert bootstrap_mean([0.25] * 5) == Interval(0.25, 0.25, 0.25, 5, 0.95)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [1.0, inf], [[1.0, 2.0]]])
def test_bootstrap_needs_finite_values(values):
    with pytest.raises(FlatlibError):
        bootstrap_mean(values)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_bootstrap_needs_a_probability(level):
    with pytest.raises(FlatlibError, match="level"):
        bootstrap_mean([1.0, 2.0], level=level)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(93.1234, 92.871, 93.402, 5, 0.95), "93.12 [92.87, 93.40], n = 5"),
        (Interval(1234.5, 1000.0, 1500.0, 5, 0.95), "1234 [1000, 1500], n = 5"),
        (Interval(0.5, -inf, inf, 1, 0.95), "0.5 [-inf, inf], n = 1"),
        (Interval(0.25, 0.25, 0.25, 5, 0.95), "0.25, all 5 seeds"),
    ],
)
def test_interval_prints_two_digits(interval, text):
    assert str(interval) == text


@pytest.fixture
def runs():
    """Two seeds at four sharpnesses; accuracy falls by 0.1 (seed 0) and 0.2 (seed 1) per decade."""
    table = pd.DataFrame(list(product((0, 1), (1.0, 10.0, 100.0, 1000.0))), columns=["seed", "lambda_max"])
    return table.assign(test_accuracy=0.9 - 0.1 * (table["seed"] + 1) * np.log10(table["lambda_max"]))


def test_slopes_are_exact(runs):
    slopes = seed_slopes(runs, "lambda_max", "test_accuracy")
    assert slopes.index.name == "seed"
    assert slopes.to_dict() == pytest.approx({0: -0.1, 1: -0.2})
    runs = runs.assign(power=3 * runs["lambda_max"] ** -1.5, line=7 - 2 * runs["lambda_max"])
    assert seed_slopes(runs, "lambda_max", "power", logy=True).tolist() == pytest.approx([-1.5, -1.5])
    assert seed_slopes(runs, "lambda_max", "line", logx=False).tolist() == pytest.approx([-2.0, -2.0])


def test_slopes_exclude_diverged_runs(runs):
    runs.loc[(runs["seed"] == 0) & (runs["lambda_max"] == 1000), "lambda_max"] = nan
    runs.loc[(runs["seed"] == 1) & (runs["lambda_max"] > 1), "test_accuracy"] = inf
    assert seed_slopes(runs, "lambda_max", "test_accuracy").tolist() == pytest.approx([-0.1, nan], nan_ok=True)


def test_slopes_name_the_fault(runs):
    with pytest.raises(FlatlibError, match="not positive"):
        seed_slopes(runs.assign(lambda_max=0.0), "lambda_max", "test_accuracy")
    with pytest.raises(FlatlibError, match="no column trace"):
        seed_slopes(runs, "trace", "test_accuracy")
    with pytest.raises(FlatlibError, match="empty"):
        seed_slopes(runs.iloc[:0], "lambda_max", "test_accuracy")


def test_kendall_tau_corrects_ties():
    assert kendall_tau([1, 2, 3], [2, 4, 9]) == pytest.approx(1.0)
    assert kendall_tau([1, 2, 3], [9, 4, 2]) == pytest.approx(-1.0)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / np.sqrt(6))  # P = 2, Q = 0, T_x = 1, T_y = 0


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1]), ([1], [1]), ([], []), ([1, 1], [1, 2]), ([1, 2], [1, nan])])
def test_kendall_tau_needs_a_ranking(x, y):
    with pytest.raises(FlatlibError):
        kendall_tau(x, y)


def points(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["seed", "x", "y"])


@pytest.mark.parametrize("missing", [nan, inf, None])
def test_taus_exclude_missing_values(missing):
    runs = points((0, 1, 1.0), (0, 2, missing), (0, 3, 3.0), (1, 1, missing), (1, 2, 5.0), (2, missing, 1), (2, 1, 2))
    assert seed_taus(runs, "x", "y").to_dict() == pytest.approx({0: 1.0, 1: nan, 2: nan}, nan_ok=True)


def test_taus_are_by_seed():
    runs = points(
        (7, 0.0, 1.0), (3, 0.1, 4.0), (3, 0.2, 2.0), (3, 0.3, 1.0), (3, 0.4, 3.0), (7, 0.5, 2.0), (1, 1, 5), (1, 2, 5)
    )
    assert seed_taus(runs, "x", "y").to_dict() == pytest.approx({1: nan, 3: (2 - 4) / 6, 7: 1.0}, nan_ok=True)
    assert seed_taus(runs.iloc[:0], "x", "y").empty


@pytest.mark.parametrize("missing", [nan, inf])
@pytest.mark.parametrize("statistic", [seed_differences, seed_log2_ratios])
def test_missing_measure_keeps_its_seed(statistic, missing):
    def of(runs):
        return statistic(runs, "y", runs["x"] == 1, runs["x"] == 0).to_dict()

    known = points((0, 1, 8.0), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0))
    both = pd.concat([known, points((0, 1, missing), (0, 0, missing), (0, 2, missing))], ignore_index=True)
    assert of(both) == of(known)
    lost = both.assign(y=both["y"].where((both["seed"] == 0) | (both["x"] == 1), missing))
    assert of(lost) == pytest.approx({0: of(known)[0], 1: nan}, nan_ok=True)
    assert of(known.assign(y=None)) == pytest.approx({0: nan, 1: nan}, nan_ok=True)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_ratio_without_logarithm_is_undefined(value):
    runs = points((0, 1, 8.0), (0, 1, value), (0, 0, 2.0), (1, 1, 4.0), (1, 0, 1.0), (1, 2, value))
    found = seed_log2_ratios(runs, "y", runs["x"] == 1, runs["x"] == 0)
    assert found.to_dict() == pytest.approx({0: nan, 1: 2.0}, nan_ok=True)  # of seed 1, in neither group
