"""The claims of Granziol 2020, MacDonald et al. 2023 and Bejan et al. 2022 on tables made up for and against them."""

import re
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import MEAN_NOISE, check_both_ways, check_left_out, check_open, numbers, without
from synthetic_runs_others import (
    adam_runs,
    decay_runs,
    minimum_runs,
    regulariser_runs,
    smoothing_runs,
)

from flatlib.claims import CLAIMS, label_smoothing
from flatlib.runs import records

DECAY, ADAM, SMOOTHING, MINIMUM, REGULARISERS = (
    CLAIMS[name]
    for name in ("06_weight_decay", "07_adam_vs_sgd", "09_label_smoothing", "10_minimum_sharpness", "11_regularisers")
)
POINT = 100 * MEAN_NOISE
# of the sharpness and the gap in `regulariser_runs`: 36 pairs, 6 tied in both, 3 in sharpness alone
TAU_FOR, TAU_AGAINST = (24 - 3) / sqrt(30 * 27), (23 - 4) / sqrt(30 * 27)
BOTH_WAYS = {
    "decay": (
        *(DECAY, decay_runs),
        [1, 1, 0.015 * POINT, -0.03 * POINT, -4, 2],
        [-1, -1, -0.015 * POINT, 0.03 * POINT, 4, -2],
    ),
    "adam": (
        *(ADAM, adam_runs),
        [2, 4, 0.01 * POINT, 0.005 * POINT, 0.005 * POINT, 0.5],
        [-1, -2, -0.02 * POINT, -0.03 * POINT, 0.03 * POINT, 2],
    ),
    "smoothing": (SMOOTHING, smoothing_runs, [-1] * 4, [1] * 4),
    "minimum": (MINIMUM, minimum_runs, [-1, 1, 0.02 * POINT, 1, 1], [2, 0, -0.01 * POINT, 0, -1]),
    "regularisers": (
        *(REGULARISERS, regulariser_runs),
        [1, 1 - TAU_FOR, -2, -6, -4, -8, -1, 0.25],
        [-1, -1 - TAU_AGAINST, 2, 6, 4, 8, 1, -0.75],
    ),
}


@pytest.mark.parametrize(("claim", "make", "supporting", "contradicting"), BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_every_prediction_can_be_supported_and_contradicted(claim, make, supporting, contradicting):
    names = [prediction.name for prediction in claim.predictions]
    check_both_ways(claim, make, *(dict(zip(names, found, strict=True)) for found in (supporting, contradicting)))


def test_thresholds_are_those_that_were_declared():
    assert DECAY.declared()["must be"].tolist() == ["> 0.3", "> 0.3", "> 0", "< 0", "< -1", "> 0"]
    assert ADAM.declared()["must be"].tolist() == ["> 0", "> 0", "> -1", "in -1 .. 1", "in -1 .. 1", "in -1 .. 1"]
    assert SMOOTHING.declared()["must be"].tolist() == ["< -0.5"] * 4
    assert MINIMUM.declared()["must be"].tolist() == ["< 0", "> 0.8", "> 0", "> 0.8", "> 0"]
    assert REGULARISERS.declared()["must be"].tolist() == ["> 0", "> 0", *["< 0"] * 5, "> -0.5"]


def unaccurate(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without the points at which 90 % of the images are right."""
    return runs.assign(trajectory=runs["trajectory"].map(lambda path: {k: v[:2] for k, v in path.items()}))


PLAIN = "label_smoothing == 0 and mixup == 0 and sam_rho == 0 and augmentation == ''"
MAIN = "^(?!adaptive)"
OPEN = {  # claim, runs, which predictions then have no answer
    "decay, no runs": (DECAY, lambda: records.table([]), ""),
    "decay, all capped": (DECAY, lambda: decay_runs(True).assign(status="capped"), ""),
    "decay, none": (DECAY, lambda: decay_runs(True).query("weight_decay == 0"), ""),
    "decay, always": (DECAY, lambda: decay_runs(True).query("weight_decay > 0"), "accuracy|gap|vanishing|Jacobian"),
    "decay, all diverged but one": (DECAY, lambda: without(decay_runs(True), "weight_decay > 0", "diverged"), ""),
    "decay, constant": (DECAY, lambda: decay_runs(True).assign(frobenius=3.0), "Frobenius"),
    "decay, not measured": (DECAY, lambda: decay_runs(True).drop(columns="lambda_max"), "sharpness"),
    "decay, undefined": (DECAY, lambda: decay_runs(True).assign(softmax_jacobian_norm=None), "Jacobian norm"),
    "adam, no runs": (ADAM, lambda: records.table([]), ""),
    "adam, main alone": (ADAM, lambda: adam_runs(True).query("stop == 'epochs'"), "adaptive"),
    "adam, six alone": (ADAM, lambda: adam_runs(True).query("stop == 'train_loss'"), MAIN),
    "adam, never averaged": (ADAM, lambda: adam_runs(True).query("averaging_start.isna()"), MAIN),
    "adam, no sgd": (ADAM, lambda: adam_runs(True).query("stop != 'epochs' or optimizer == 'adamw'"), MAIN),
    "adam, sgd capped": (
        *(ADAM, lambda: without(adam_runs(True), "stop == 'epochs' and optimizer == 'heavy_ball' and seed == 3")),
        MAIN,
    ),
    "adam, all tuning": (ADAM, lambda: adam_runs(True).assign(validation_size=100.0), MAIN),
    "adam, one kind": (ADAM, lambda: adam_runs(True).query("optimizer not in ('sgd', 'heavy_ball')"), ""),
    "adam, undefined": (ADAM, lambda: adam_runs(True).assign(minimum_sharpness=None), "minimum sharpness"),
    "smoothing, no runs": (SMOOTHING, lambda: records.table([]), ""),
    "smoothing, not tracked": (SMOOTHING, lambda: smoothing_runs(True).assign(trajectory=[{}] * 30), ""),
    "smoothing, all diverged": (SMOOTHING, lambda: smoothing_runs(True).assign(status="diverged"), ""),
    "smoothing, one amount": (SMOOTHING, lambda: smoothing_runs(True).query("label_smoothing == 0"), ""),
    "smoothing, never accurate": (SMOOTHING, lambda: unaccurate(smoothing_runs(True)), "equal accuracy"),
    "minimum, no runs": (MINIMUM, lambda: records.table([]), ""),
    "minimum, all capped": (MINIMUM, lambda: minimum_runs(True).assign(status="capped"), ""),
    "minimum, never SAM": (MINIMUM, lambda: minimum_runs(True).query("sam_rho == 0"), "minimum|accuracy"),
    "minimum, SAM diverged": (
        *(MINIMUM, lambda: without(minimum_runs(True), "sam_rho > 0 and seed == 2", "diverged")),
        "minimum|accuracy",
    ),
    "minimum, as coded": (MINIMUM, lambda: minimum_runs(True, "batch_softmax"), ""),
    "minimum, undefined": (MINIMUM, lambda: minimum_runs(True).assign(minimum_sharpness=None), "minimum|corr"),
    "minimum, two radii": (
        *(MINIMUM, lambda: minimum_runs(True).assign(sam_rho=lambda runs: runs["sam_rho"] + 0.1)),
        "minimum|accuracy",
    ),
    "regularisers, no runs": (REGULARISERS, lambda: records.table([]), ""),
    "regularisers, all capped": (REGULARISERS, lambda: regulariser_runs(True).assign(status="capped"), ""),
    "regularisers, never without": (
        *(REGULARISERS, lambda: without(regulariser_runs(True), PLAIN)),
        r"Jacobian \(|sharpness \(",
    ),
    "regularisers, no mixup": (
        *(REGULARISERS, lambda: regulariser_runs(True).query("mixup == 0")),
        "mixup|the others",
    ),
    "regularisers, no gap": (
        *(REGULARISERS, lambda: regulariser_runs(True).assign(loss_gap=1.0)),
        "Jacobian and gap|Jacobian against",
    ),
}


@pytest.mark.parametrize(("claim", "make", "mute"), OPEN.values(), ids=OPEN)
def test_runs_that_lack_what_is_compared_leave_a_prediction_open_and_the_others_as_they_were(claim, make, mute):
    check_open(claim, make(), {prediction.name for prediction in claim.predictions if re.search(mute, prediction.name)})


SETTINGS = {
    "decay": (DECAY, decay_runs, "max_epochs == 10 and weight_decay == 0.001"),
    "minimum": (MINIMUM, minimum_runs, "optimizer == 'sgd' and sam_rho > 0"),
    "regularisers": (REGULARISERS, regulariser_runs, "sam_rho == 0.05"),
}


@pytest.mark.parametrize(("claim", "make", "setting"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_one_seed_missed_is_left_out_alone(claim, make, setting):
    check_left_out(claim, make(True), setting)


NUMBERS = ("lambda_max", "frobenius", "test_accuracy", "generalization_gap", "softmax_jacobian_norm")


def test_runs_of_other_kinds_change_nothing():
    """Density runs of one seed; tuning runs, and the six inside SAM; runs on the loss of the paper's code."""
    runs = decay_runs(True)
    density = runs[runs["seed"] == 0][[name for name in runs if name not in NUMBERS]]
    assert numbers(DECAY, pd.concat([runs, density], ignore_index=True)) == numbers(DECAY, runs)
    runs = adam_runs(True)
    tuning = adam_runs(False).query("stop == 'epochs'").assign(validation_size=100.0)
    assert numbers(ADAM, pd.concat([runs, tuning], ignore_index=True)) == numbers(ADAM, runs)
    runs, coded = minimum_runs(True), minimum_runs(False, "batch_softmax")
    assert numbers(MINIMUM, pd.concat([runs, coded], ignore_index=True)) == numbers(MINIMUM, runs)


def test_each_share_of_the_optimizers_needs_more_than_four_fifths():
    runs = minimum_runs(True)
    for names, share in ((["sgd"], 5 / 6), (["sgd", "adam"], 4 / 6)):
        inside = runs["optimizer"].isin(names) & (runs["sam_rho"] > 0)
        worse = runs.assign(
            minimum_sharpness=runs["minimum_sharpness"] * np.where(inside, 4, 1),
            test_accuracy=runs["test_accuracy"] - np.where(inside, 0.05, 0),
        )
        found = numbers(MINIMUM, worse)
        for measure in ("minimum sharpness", "accuracy"):
            assert found[f"{measure} (every optimizer)"] == pytest.approx(share)
    one_capped = without(runs, "optimizer == 'sgd' and sam_rho > 0 and seed == 0")
    assert numbers(MINIMUM, one_capped)["accuracy (every optimizer)"] == 1


def test_an_optimizer_without_a_measure_is_no_optimizer_that_sam_made_worse():
    runs = minimum_runs(True)
    runs["minimum_sharpness"] = runs["minimum_sharpness"].where(runs["optimizer"] != "sgd")
    assert numbers(MINIMUM, runs)["minimum sharpness (every optimizer)"] == 1


def test_the_peak_and_the_point_of_equal_accuracy():
    summary = label_smoothing.summarized(smoothing_runs(True))
    smoothing, scale = summary["label_smoothing"], 0.001 / summary["learning_rate"] ** 3
    factors = 1 + 0.01 * np.sin(summary["seed"])
    for measure, factor in (("lambda_max", 1), ("softmax_jacobian_norm", 2)):
        peak, at_accuracy = (factor * (value - smoothing) * scale * factors for value in (10, 5))
        assert summary[f"peak_{measure}"].to_numpy() == pytest.approx(peak)
        assert summary[f"{measure}_at_accuracy"].to_numpy() == pytest.approx(at_accuracy)


def test_a_regulariser_whose_weakest_strength_was_capped_is_compared_at_the_next():
    runs = without(regulariser_runs(True), "mixup == 0.2 and seed == 4")
    assert numbers(REGULARISERS, runs)["Jacobian (mixup)"] == 20
