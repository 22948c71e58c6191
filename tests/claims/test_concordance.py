"""Kendall's tau within groups: against scipy on every group, and its interval by simulated coverage."""

from itertools import combinations
from math import inf, isnan

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from flatlib.claims.concordance import pair_weights, stratified_kendall_tau
from flatlib.errors import FlatlibError
from flatlib.stats import seed_resamples


def runs_of(seeds=5, settings=4, within=0.5, between=0.5, share=0.3, generator=0):
    """x and y normal: `share` of their variance is the seed's, where they correlate by `between`, else by `within`."""
    rng = np.random.default_rng(generator)

    def pair(correlation, size):
        first = rng.normal(size=size)
        return first, correlation * first + np.sqrt(1 - correlation**2) * rng.normal(size=size)

    of_seed, of_run = pair(between, (seeds, 1)), pair(within, (seeds, settings))
    x, y = (np.sqrt(share) * s + np.sqrt(1 - share) * r for s, r in zip(of_seed, of_run, strict=True))
    seed, setting = np.meshgrid(np.arange(seeds), np.arange(settings), indexing="ij")
    return pd.DataFrame({"seed": seed.ravel(), "setting": setting.ravel(), "x": x.ravel(), "y": y.ravel()})


def with_ties():
    rng = np.random.default_rng(3)
    table = {"seed": rng.integers(5, size=60), "a": rng.integers(3, size=60), "b": rng.choice(list("pq"), size=60)}
    return pd.DataFrame(table | {"x": rng.integers(6, size=60), "y": rng.integers(4, size=60)})


def test_one_stratum_is_scipys_tau():
    runs = with_ties()
    assert stratified_kendall_tau(runs, "x", "y").tau.estimate == pytest.approx(
        kendalltau(runs["x"], runs["y"]).statistic
    )


def test_strata_are_weighted_by_untied_pairs():
    runs = with_ties()
    taus, weights, ordered = [], [], 0
    for _, group in runs.groupby(["a", "b"]):
        pairs = list(combinations(group[["x", "y"]].to_numpy(), 2))
        untied = np.array([one != other for one, other in pairs])
        taus.append(kendalltau(group["x"], group["y"]).statistic)
        weights.append(np.sqrt(np.prod(untied.sum(axis=0))))
        ordered += untied.all(axis=1).sum()
    found = stratified_kendall_tau(runs, "x", "y", ["a", "b"])
    assert found.tau.estimate == pytest.approx(np.average(taus, weights=weights))
    assert (found.lowest, found.highest) == pytest.approx((min(taus), max(taus)))
    assert (found.runs, found.groups, found.pairs) == (60, 6, ordered)


def test_order_between_strata_is_ignored():
    runs = runs_of(within=0.9, between=0.9)
    shifted = runs.assign(y=runs["y"] - 100 * runs["setting"], x=runs["x"] + 100 * runs["setting"])
    assert stratified_kendall_tau(shifted, "x", "y").tau.estimate < -0.5
    assert stratified_kendall_tau(shifted, "x", "y", ["setting"]) == stratified_kendall_tau(runs, "x", "y", ["setting"])


def test_strata_without_pairs_are_excluded():
    runs = runs_of()
    alone = pd.DataFrame({"seed": [0], "setting": [90], "x": [1.0], "y": [1.0]})
    constant = pd.DataFrame({"seed": [0, 1], "setting": 91, "x": [1.0, 1.0], "y": [1.0, 2.0]})
    unknown = pd.DataFrame({"seed": [0, 1], "setting": 92, "x": [1.0, np.nan], "y": [np.inf, 2.0]})
    more = pd.concat([runs, alone, constant, unknown])
    assert stratified_kendall_tau(more, "x", "y", ["setting"]) == stratified_kendall_tau(runs, "x", "y", ["setting"])
    nothing = stratified_kendall_tau(constant, "x", "y", ["setting"])
    assert isnan(nothing.tau.estimate)
    assert (nothing.runs, nothing.groups, nothing.pairs) == (0, 0, 0)


def test_missing_setting_is_a_stratum():
    runs = pd.DataFrame({"seed": range(6), "size": [None] * 3 + [10.0] * 3, "x": range(6), "y": [2, 1, 0, 5, 4, 3]})
    assert stratified_kendall_tau(runs, "x", "y", ["size"]).groups == 2
    assert stratified_kendall_tau(runs, "x", "y", ["size"]).tau.estimate == -1


def test_pairs_count_once_in_expectation():
    drawn, likelihood = seed_resamples(4, 0, 0)
    one_set = np.zeros(4, dtype=int)
    np.testing.assert_allclose(np.average(pair_weights(drawn, one_set), axis=0, weights=likelihood), 1)
    apart = np.hstack([drawn[:, None].repeat(len(drawn), 1).reshape(-1, 4), np.tile(drawn, (len(drawn), 1))])
    weights = np.outer(likelihood, likelihood).ravel()
    sets = np.repeat([0, 1], 4)
    np.testing.assert_allclose(np.average(pair_weights(apart, sets), axis=0, weights=weights), 1)


def two_experiments():
    """Two experiments with seeds of their own and opposite taus, of which one has four times as many settings."""
    many, few = (
        runs_of(settings=12, within=0.9, between=0.9),
        runs_of(settings=3, within=-0.9, between=-0.9, generator=1),
    )
    return pd.concat([many.assign(experiment="many"), few.assign(experiment="few", seed=few["seed"] + 300)])


def test_seeds_are_drawn_within_their_experiments():
    """The weights of two experiments are no sampling error: a draw of eight seeds from one of them is impossible."""
    runs, held = two_experiments(), ["experiment"]
    pooled = stratified_kendall_tau(runs, "x", "y", held).tau
    apart = stratified_kendall_tau(runs, "x", "y", held, experiment=held).tau
    assert apart.estimate == pooled.estimate
    assert (apart.n, pooled.n) == (10, 10)
    assert apart.high - apart.low < 0.6 * (pooled.high - pooled.low)
    shares = runs.groupby("experiment").size().pow(2)
    single = [stratified_kendall_tau(of_one, "x", "y").tau for _, of_one in runs.groupby("experiment")]
    widths = np.array([tau.high - tau.low for tau in single]) * shares / shares.sum()
    assert apart.high - apart.low == pytest.approx(np.sqrt((widths**2).sum()), rel=0.3)


def test_experiments_with_the_same_seeds_are_drawn_together():
    runs = pd.concat([runs_of().assign(experiment=name) for name in "ab"])
    for held in ([], ["experiment"]):
        together = stratified_kendall_tau(runs, "x", "y", held)
        assert stratified_kendall_tau(runs, "x", "y", held, experiment=["experiment"]) == together


def test_experiment_of_one_seed_has_no_interval():
    runs = pd.concat([runs_of().assign(experiment="a"), runs_of(seeds=1).assign(experiment="b", seed=9)])
    found = stratified_kendall_tau(runs, "x", "y", ["experiment"], experiment=["experiment"]).tau
    assert (found.low, found.high, found.n) == (-inf, inf, 6)


def test_runs_are_resampled_by_seed():
    """Ten copies of each run are no new seeds: the interval must not get narrower."""
    runs = runs_of(settings=1, share=0.0)
    copies = pd.concat([runs] * 10)
    one, ten = stratified_kendall_tau(runs, "x", "y").tau, stratified_kendall_tau(copies, "x", "y").tau
    assert ten.n == 5
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_one_seed_has_infinite_interval():
    found = stratified_kendall_tau(runs_of(seeds=1), "x", "y").tau
    assert (found.low, found.high, found.n) == (-inf, inf, 1)


def true_tau(seeds, settings, within, between, share, grouped):
    """The mean tau of the normal laws above: pairs of one seed know `within` only, other pairs both correlations."""
    across = share * between + (1 - share) * within
    same, other = (0 if grouped else seeds * settings * (settings - 1) / 2), seeds * (seeds - 1) / 2
    other *= settings if grouped else settings**2
    return 2 / np.pi * np.average(np.arcsin([within, across]), weights=[same, other])


@pytest.mark.parametrize(
    ("within", "between", "grouped", "at_least", "at_most"),  # measured with 400 simulations, in brackets
    [
        (0.0, 0.0, False, 0.94, 1.0),  # 0.975
        (0.8, -0.5, False, 0.86, 0.96),  # 0.910: the seed works against the settings
        (0.8, -0.5, True, 0.92, 1.0),  # 0.958
        (0.0, 0.0, True, 0.97, 1.0),  # 0.998
    ],
)
def test_coverage_at_five_seeds(within, between, grouped, at_least, at_most):
    law = {"seeds": 5, "settings": 12, "within": within, "between": between, "share": 0.3}
    truth = true_tau(**law, grouped=grouped)
    held = ["setting"] if grouped else []
    found = [stratified_kendall_tau(runs_of(**law, generator=i), "x", "y", held).tau for i in range(200)]
    assert at_least <= np.mean([tau.low <= truth <= tau.high for tau in found]) <= at_most
    assert np.mean([tau.estimate for tau in found]) == pytest.approx(truth, abs=0.04)


def test_coverage_of_the_monte_carlo_branch():
    law = {"seeds": 8, "settings": 6, "within": 0.5, "between": 0.5, "share": 0.3}
    found = [stratified_kendall_tau(runs_of(**law, generator=i), "x", "y", resamples=1000).tau for i in range(200)]
    assert np.mean([tau.low <= true_tau(**law, grouped=False) <= tau.high for tau in found]) >= 0.93


def test_missing_column_is_named():
    with pytest.raises(FlatlibError, match="no column batch_size"):
        stratified_kendall_tau(runs_of(), "x", "y", ["batch_size"])
