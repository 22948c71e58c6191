"""The claims of Kaur, Cohen and Lipton 2022 on tables made to support, to contradict, and to leave them open."""

from dataclasses import replace
from math import ceil, log2

import numpy as np
import pandas as pd
import pytest
from made_up import MEAN_NOISE, SEEDS, check_both_ways, check_open, noise, numbers, runs_of, without, words

from flatlib import records
from flatlib.claims import CLAIMS, batch_norm, linear_scaling
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError

SCALING, SAM, DROPOUT, BATCH_NORM = (
    CLAIMS[name] for name in ("02_linear_scaling", "03_sam", "04_dropout", "05_batch_norm")
)
RATES = [0.05, 0.1, 0.2]
POINT = 100 * MEAN_NOISE  # an accuracy in percentage points, as a mean over the seeds


def scaling_runs(holds: bool) -> pd.DataFrame:
    """Batches of 10, 40, 160 at two ratios; one is tracked every second epoch, at the start in the other order."""
    fixed, across = (0.0, 0.02) if holds else (0.03, -0.02)
    base = RunConfig(train_size=1000)
    pairs = [(size, alpha) for alpha in (500, 1000) for size in (10, 40, 160)]
    configs = []
    for size, alpha in pairs:
        tracked = {"track": ("lambda_max",), "track_every": 2 * ceil(1000 / size)} if alpha == 1000 else {}
        configs += grid(replace(base, batch_size=size, learning_rate=size / alpha, **tracked), seed=SEEDS)

    def measures(config):
        rate, alpha = config.learning_rate, config.batch_size / config.learning_rate
        accuracy = 0.6 + fixed * np.log10(rate) + (across - fixed) * np.log10(1 / alpha)
        sharpness = 100 * rate ** (-0.5 if holds else 0.5) * alpha  # the ratios lie far apart
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    def path(config):
        if not config.track:
            return None
        late = [config.learning_rate ** (-1 if holds else 1)] * 10
        return {
            "update": [config.track_every * k for k in range(11)],
            "lambda_max": [1 / late[0], *late],
        }

    return runs_of(configs, measures, path)


def sam_runs(holds: bool) -> pd.DataFrame:
    """Sharpness that falls with the radius and by much more with the learning rate; accuracy that depends on both."""
    gains = {20: 0.02, 1000: 0.002} if holds else {20: -0.01, 1000: 0.01}

    def measures(config):
        sharpness = (10 + (-20 if holds else 20) * config.sam_rho) / config.learning_rate**2
        accuracy = 0.5 + config.learning_rate + gains[config.batch_size] * (config.sam_rho > 0)
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    axes = {"batch_size": [20, 1000], "learning_rate": RATES[:2], "sam_rho": [0.0, 0.05, 0.1, 0.2]}
    return runs_of(grid(RunConfig(), **axes, seed=SEEDS), measures)


DROPOUT_ACCURACY = {0.0: 0.5, 0.1: 0.51, 0.2: 0.52, 0.4: 0.7, 0.7: 0.45}


def dropout_runs(holds: bool) -> pd.DataFrame:
    """Accuracy that two modest rates raise and the largest lowers; between them a rate that is neither."""

    def measures(config):
        accuracy = DROPOUT_ACCURACY[config.dropout] if holds else 1 - DROPOUT_ACCURACY[config.dropout]
        sharpness = (10 + (-10 if holds else 10) * config.dropout) / config.learning_rate**2
        return {"lambda_max": sharpness * noise(config.seed), "test_accuracy": accuracy * noise(config.seed)}

    axes = {"learning_rate": RATES[:2], "dropout": list(DROPOUT_ACCURACY)}
    return runs_of(grid(RunConfig(), **axes, seed=SEEDS), measures)


def batch_norm_runs(holds: bool, mode: str = "train") -> pd.DataFrame:
    """With batch norm the sharpness lies above at some rates and below at others; lambda_max itself is far off."""
    doublings = {50: 0.75, 250: 0.5} if holds else {50: 1.25, 250: 1.5}
    gains = {0.05: -0.02, 0.1: 0.1, 0.2: 0.03} if holds else {0.05: 0.02, 0.1: 0.1, 0.2: -0.03}

    def measures(config):
        above = 1 if config.learning_rate == 0.1 else -1
        with_norm = config.model == "small_cnn_bn"
        sharpness = 2 / config.learning_rate * 2 ** (with_norm * above * doublings[config.batch_size])
        gain = gains[config.learning_rate] * (1 if config.batch_size == 50 else 2)
        accuracy = (0.5 + with_norm * gain) * noise(config.seed)
        return {
            "lambda_max": 100 * sharpness if with_norm else sharpness,
            "between_iterates": sharpness,
            "test_accuracy": accuracy,
        }

    axes = {"model": ["small_cnn", "small_cnn_bn"], "batch_size": [50, 250], "learning_rate": RATES}
    return runs_of(grid(RunConfig(batch_norm=mode), **axes, seed=SEEDS), measures)


BOTH_WAYS = {
    "scaling": (SCALING, scaling_runs, [-0.5, 0, 0.02 * POINT, 1], [0.5, 0.03 * POINT, -0.02 * POINT, 0]),
    "sam": (
        *(SAM, sam_runs),
        [-1, -1, 0.02 * POINT, 0.002 * POINT, 0.018 * POINT],
        [1, 1, -0.01 * POINT, 0.01 * POINT, -0.02 * POINT],
    ),
    "dropout": (
        *(DROPOUT, dropout_runs),
        [-1, 0.015 * POINT, log2(3) - log2(9 * 8) / 2, -0.065 * POINT],
        [1, -0.015 * POINT, log2(17) - log2(11 * 12) / 2, 0.065 * POINT],
    ),
    "batch norm": (
        *(BATCH_NORM, batch_norm_runs),
        [0.75, 0.5, -0.03 * POINT, 0.045 * POINT],
        [1.25, 1.5, 0.03 * POINT, -0.045 * POINT],
    ),
}


@pytest.mark.parametrize(("claim", "make", "supporting", "contradicting"), BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_every_prediction_can_be_supported_and_contradicted(claim, make, supporting, contradicting):
    names = [prediction.name for prediction in claim.predictions]
    check_both_ways(claim, make, *(dict(zip(names, found, strict=True)) for found in (supporting, contradicting)))


def test_thresholds_are_those_that_were_declared():
    assert SCALING.declared()["must be"].tolist() == ["< -0.2", "in -1 .. 1", "> 0", "> 0.8"]
    assert SAM.declared()["must be"].tolist() == ["< -0.3", "< -0.3", "> 0", "< 0.5", "> 0"]
    assert DROPOUT.declared()["must be"].tolist() == ["< -0.3", "> 0", "< 0", "< 0"]
    assert BATCH_NORM.declared()["must be"].tolist() == ["< 1", "< 1", "< 0", "> 0"]


SMALL, LARGE, UNTRACKED = "small batch", "large batch", "batch_size / learning_rate < 600"
OPEN = {  # claim, runs, what is in the names of the predictions that then have no answer
    "no runs": (SCALING, lambda: records.table([]), [""]),
    "all capped": (
        SCALING,
        lambda: scaling_runs(True).assign(status="capped"),
        ["("],
    ),  # they were tracked all the same
    "one batch size": (SCALING, lambda: scaling_runs(True).query("batch_size == 10"), ["fixed", "along"]),
    "one ratio": (SCALING, lambda: scaling_runs(True).query("learning_rate * 1000 == batch_size"), ["across"]),
    "not tracked": (SCALING, lambda: scaling_runs(True).query(UNTRACKED), ["across", "along"]),
    "no sharpness": (SCALING, lambda: scaling_runs(True).drop(columns="lambda_max"), ["sharpness"]),
    "sam, no runs": (SAM, lambda: records.table([]), [""]),
    "sam, one batch size": (SAM, lambda: sam_runs(True).query("batch_size == 20"), [""]),
    "sam, one radius": (SAM, lambda: sam_runs(True).query("sam_rho == 0.1"), [""]),
    "sam, never without": (SAM, lambda: sam_runs(True).query("sam_rho > 0"), ["accuracy", "contrast"]),
    "sam, small batch capped": (SAM, lambda: without(sam_runs(True), "batch_size == 20"), [SMALL, "contrast"]),
    "sam, one seed diverged": (
        *(SAM, lambda: without(sam_runs(True), "batch_size == 1000 and seed == 0", "diverged")),
        [LARGE, "contrast"],
    ),
    "sam, no accuracy": (SAM, lambda: sam_runs(True).drop(columns="test_accuracy"), ["accuracy", "contrast"]),
    "sam, constant sharpness": (SAM, lambda: sam_runs(True).assign(lambda_max=1.0), ["sharpness"]),
    "dropout, no runs": (DROPOUT, lambda: records.table([]), [""]),
    "dropout, none excessive": (DROPOUT, lambda: dropout_runs(True).query("dropout < 0.5"), ["excess"]),
    "dropout, excess capped": (DROPOUT, lambda: without(dropout_runs(True), "dropout > 0.5 and seed == 1"), ["excess"]),
    "dropout, never without": (DROPOUT, lambda: dropout_runs(True).query("dropout > 0"), ["modest"]),
    "dropout, none modest": (DROPOUT, lambda: dropout_runs(True).query("dropout in (0, 0.7)"), ["modest", "excess"]),
    "dropout, no measure": (DROPOUT, lambda: dropout_runs(True).assign(lambda_max=None), ["sharpness"]),
    "batch norm, no runs": (BATCH_NORM, lambda: records.table([]), [""]),
    "batch norm, one batch": (BATCH_NORM, lambda: batch_norm_runs(True).query("batch_size == 50"), ["sharpness"]),
    "batch norm, one network": (BATCH_NORM, lambda: batch_norm_runs(True).query("model == 'small_cnn'"), [""]),
    "batch norm, another mode": (BATCH_NORM, lambda: batch_norm_runs(True, "eval"), [""]),
    "batch norm, one capped": (BATCH_NORM, lambda: without(batch_norm_runs(True), "batch_size == 250"), [LARGE]),
}


@pytest.mark.parametrize(("claim", "make", "parts"), OPEN.values(), ids=OPEN)
def test_runs_that_lack_what_is_compared_leave_a_prediction_open_and_the_others_as_they_were(claim, make, parts):
    silent = {name for name in (p.name for p in claim.predictions) if any(part in name for part in parts)}
    check_open(claim, make(), silent)


def test_only_runs_at_the_same_learning_rate_are_compared():
    runs = sam_runs(True)
    some = runs[(runs["learning_rate"] == 0.05) | (runs["sam_rho"] < 0.1)]
    assert numbers(SAM, some) == pytest.approx(numbers(SAM, runs))


def test_a_rate_of_a_half_is_excessive_and_the_largest_counts():
    runs = dropout_runs(True)
    half = runs.assign(dropout=runs["dropout"].replace({0.4: 0.5}))
    assert numbers(DROPOUT, half)["excess (accuracy)"] == pytest.approx(-0.065 * POINT)
    assert numbers(DROPOUT, half.query("dropout < 0.7"))["excess (accuracy)"] == pytest.approx(0.185 * POINT)


def test_a_learning_rate_whose_excess_was_capped_leaves_the_answer_to_the_other():
    runs = without(dropout_runs(True), "learning_rate == 0.1 and dropout > 0.2")
    assert numbers(DROPOUT, runs)["excess (accuracy)"] == pytest.approx(-0.065 * POINT)
    assert words(DROPOUT, runs)["excess (sharpness)"] == "supported"


def test_epochs_of_tracked_runs_are_whole_whatever_the_last_batch_holds():
    points = linear_scaling.tracked(scaling_runs(True))
    assert set(points["alpha"]) == {1000}
    for _, run in points.groupby("run_id"):
        assert run["epoch"].tolist() == [2 * k for k in range(11)]
    with pytest.raises(FlatlibError, match="no run was tracked"):
        linear_scaling.tracked(scaling_runs(True).query(UNTRACKED))


def test_the_share_is_of_the_epochs_at_which_both_were_under_way():
    runs = scaling_runs(True)
    largest = runs["learning_rate"] == 0.16
    falls = [1.0, *[999.0] * 2, *[0.1] * 6]  # flatter at 6 of 8 epochs after the start
    path = {"update": [14 * k for k in range(9)], "lambda_max": falls}
    runs["trajectory"] = [path if cut else whole for cut, whole in zip(largest, runs["trajectory"], strict=True)]
    assert linear_scaling.share_ordered(runs).tolist() == [0.75] * 5
    assert words(SCALING, runs)["along training"] == "contradicted"


def test_runs_in_other_modes_change_nothing_and_are_laid_beside():
    main = batch_norm_runs(True)
    others = pd.concat([batch_norm_runs(False, mode) for mode in ("eval", "recalibrated")])
    others = others.query("batch_size == 50 and model == 'small_cnn_bn'").drop(columns="between_iterates")
    everything = pd.concat([main, others], ignore_index=True)
    assert numbers(BATCH_NORM, everything) == numbers(BATCH_NORM, main)
    modes = batch_norm.by_mode(everything)
    assert modes["how"].value_counts().to_dict() == dict.fromkeys(
        ["train", "eval", "recalibrated", "between iterates"], len(RATES) * len(SEEDS)
    )
    assert set(modes["model"]) == {"small_cnn_bn"}
    assert set(modes["batch_size"]) == {50}
    kept = modes.set_index(["how", "learning_rate", "seed"])["lambda_max"]
    pd.testing.assert_series_equal(100 * kept["between iterates"], kept["train"], check_names=False)
