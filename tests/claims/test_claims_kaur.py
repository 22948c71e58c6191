"""The claims of Kaur, Cohen and Lipton 2022 on tables made to support, to contradict, and to leave them open."""

from math import log2

import pandas as pd
import pytest
from synthetic_runs import MEAN_NOISE, SEEDS, check_both_ways, check_left_out, check_open, numbers, without, words
from synthetic_runs_kaur import RATES, batch_norm_runs, dropout_runs, sam_runs, scaling_runs

from flatlib.claims import CLAIMS, batch_norm, linear_scaling
from flatlib.errors import FlatlibError
from flatlib.runs import records

SCALING, SAM, DROPOUT, BATCH_NORM = (
    CLAIMS[name] for name in ("02_linear_scaling", "03_sam", "04_dropout", "05_batch_norm")
)
POINT = 100 * MEAN_NOISE  # an accuracy in percentage points, as a mean over the seeds
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


SETTINGS = {
    "scaling": (SCALING, scaling_runs, "batch_size == 40 and learning_rate == 0.08"),
    "sam": (SAM, sam_runs, "batch_size == 20 and learning_rate == 0.1 and sam_rho == 0.2"),
    "dropout": (DROPOUT, dropout_runs, "learning_rate == 0.1 and dropout == 0.1"),
    "batch norm": (BATCH_NORM, batch_norm_runs, "model == 'small_cnn' and batch_size == 50 and learning_rate == 0.1"),
}


@pytest.mark.parametrize(("claim", "make", "setting"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_one_seed_missed_is_left_out_alone(claim, make, setting):
    check_left_out(claim, make(True), setting)


def test_the_largest_rate_is_one_that_counts_with_batch_norm_and_without():
    runs = without(batch_norm_runs(True), "model == 'small_cnn_bn' and batch_size == 50 and learning_rate == 0.2")
    gain = (0.1 + 0.06) / 2  # at 0.1 with the small batch, at 0.2 with the large one
    assert numbers(BATCH_NORM, runs)["accuracy (large rate)"] == pytest.approx(gain * POINT)


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
    assert linear_scaling.share_ordered(linear_scaling.tracked(runs)).tolist() == [0.75] * 5
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
