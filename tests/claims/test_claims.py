"""Every claim on tables made to support it, to contradict it, and to leave it open."""

import re
from math import log2, log10, sqrt

import numpy as np
import pandas as pd
import pytest

import synthetic_runs as kaur
import synthetic_runs_others as others
from flatlib.book.paths import find_root, notebooks
from flatlib.claims import CLAIMS, claim_verdict, format_verdicts
from flatlib.claims.progressive_sharpening import main_runs
from flatlib.runs import records
from synthetic_runs import MEAN_NOISE, SEEDS, numbers, without

POINT = 100 * MEAN_NOISE  # an accuracy in percentage points, as a mean over the seeds
WIDTHS, HALF_DECADE = np.log10([0.25, 0.5, 1]), log10(5) / 2


def slope(*doublings: float) -> float:
    return np.polyfit(WIDTHS, doublings, 1)[0]


# of the sharpness and the gap in `regulariser_runs`: 36 pairs, 6 tied in both, 3 in sharpness alone
EDGES, OFF_EDGES = ([MEAN_NOISE * value for value in pair] for pair in ((1.05, 1.155), (1.7, 1.87)))
TAU_FOR, TAU_AGAINST = (24 - 3) / sqrt(30 * 27), (23 - 4) / sqrt(30 * 27)
CASES = {  # runs; the declared thresholds; the estimates that support and that contradict
    "01_lr_batch": (
        kaur.lr_runs,
        ["< -0.2", "< -0.2", "in 0.7 .. 1.5", "> 0", "< 0.5", "> 0", "> 0", "> 0.5"],
        [-1, -1, MEAN_NOISE, 0.05 * POINT, 0, 0.05 * POINT, (0.1 + 0.05 * HALF_DECADE) * POINT],
        [1, 1, 0.625 * MEAN_NOISE, -0.05 * POINT, 0.05 * POINT, -0.1 * POINT, -(0.1 + 0.1 * HALF_DECADE) * POINT],
    ),
    "02_linear_scaling": (
        kaur.scaling_runs,
        ["< -0.2", "in -1 .. 1", "> 0.8", "> 0"],
        [-0.5, 0, 1],
        [0.5, 0.03 * POINT, 0],
    ),
    "03_sam": (
        kaur.sam_runs,
        ["< -0.3", "< -0.3", "> 0", "< 0.5", "> 0"],
        [-1, -1, 0.02 * POINT, 0.002 * POINT, 0.018 * POINT],
        [1, 1, -0.01 * POINT, 0.01 * POINT, -0.02 * POINT],
    ),
    "04_dropout": (
        kaur.dropout_runs,
        ["< -0.3", "> 0", "< 0", "< 0"],
        [-1, 0.015 * POINT, log2(3) - log2(9 * 8) / 2, -0.065 * POINT],
        [1, -0.015 * POINT, log2(17) - log2(11 * 12) / 2, 0.065 * POINT],
    ),
    "05_batch_norm": (
        kaur.batch_norm_runs,
        ["< 1", "< 1", "< 0", "> 0", "< 0.01"],
        [0.75, 0.5, -0.03 * POINT, 0.045 * POINT],
        [1.25, 1.5, 0.03 * POINT, -0.045 * POINT],
    ),
    "06_weight_decay": (
        others.decay_runs,
        ["> 0.3", "> 0.3", "> 0", "< 0", "< -1", "> 0", "> 0", "> 99"],
        [1, 1, 0.015 * POINT, -0.03 * POINT, -4, 2, 2],
        [-1, -1, -0.015 * POINT, 0.03 * POINT, 4, -2, -2],
    ),
    "07_adam_vs_sgd": (
        others.adam_runs,
        ["> 1", "> 1", "> 0", "> -1", "in -1 .. 1", "in -1 .. 1", "in -1 .. 1", "< 0.05"],
        [2, 4, 1, 0.01 * POINT, 0.005 * POINT, 0.5],
        [-1, -2, -0.5, -0.02 * POINT, 0.03 * POINT, 2],
    ),
    "08_progressive_sharpening": (
        others.sharpening_runs,
        ["> 1", *["in 0.8 .. 1.5"] * 2, "> 0", "> 0", "> 0", "< 0.25", "< 0", "< 0.25", "> 0", "< 1"],
        [
            log2(16.8),
            1.05 * MEAN_NOISE,
            1.155 * MEAN_NOISE,
            3,
            1,
            3,
            log2(0.9 / 1.05),
            slope(7, 6, log2(16.8)),
            log2(1.05),
            3,
        ],
        [
            log2(17 / 9),
            1.7 * MEAN_NOISE,
            1.87 * MEAN_NOISE,
            -3,
            -1,
            -3,
            1,
            slope(log2(1.025), log2(1.05), log2(17 / 9)),
            3,
            -3,
        ],
    ),
    "09_label_smoothing": (
        others.smoothing_runs,
        ["< -0.5", "< -0.5", "in 0.7 .. 1.3", *["< -0.5"] * 4, *["> 0.9"] * 4],
        [-1, -1, 1, -1, -1, -1, -1],
        [1, 1, -1, 1, 1, 1, 1],
    ),
    "10_minimum_sharpness": (
        others.minimum_runs,
        ["< 0", "< 0", "> 0", "> 0", "> 0"],
        [-1, -1, 0.02 * POINT, 0.02 * POINT, 1],
        [2, 2, -0.01 * POINT, -0.01 * POINT, -1],
    ),
    "11_regularisers": (
        others.regulariser_runs,
        [*["> 0"] * 8, *["< 0"] * 9, "> -0.5", *["< 0"] * 2, "> 50", *["> -10"] * 6, "< 0"],
        [*[1, 1 - TAU_FOR] * 4, *[-2, -6, -4, -8] * 2, -1, 0.25, -1, -1],
        [*[-TAU_AGAINST, TAU_AGAINST - 1] * 4, *[2, 6, 4, 8] * 2, 1, -0.75, 1, 1],
    ),
}


def test_every_chapter_has_a_claim():
    assert set(CLAIMS) == set(notebooks(find_root())) == set(CASES)
    for claim in CLAIMS.values():
        assert len({p.name for p in claim.predictions}) == len(claim.predictions)


@pytest.mark.parametrize("chapter", CASES)
def test_predictions_judge_both_ways(chapter):
    make, thresholds, supporting, contradicting = CASES[chapter]
    claim = CLAIMS[chapter]
    assert claim.declared()["must be"].tolist() == thresholds
    for holds, word, expected in ((True, "supported", supporting), (False, "contradicted", contradicting)):
        runs = make(holds)
        verdicts = claim.verdicts(runs)
        assert set(verdicts["verdict"]) == {word} == {claim_verdict(verdicts)}
        assert verdicts["estimate"].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert set(zip(verdicts["n"], verdicts["n_missing"], strict=True)) == {(5, 0)}
        pd.testing.assert_frame_equal(verdicts, claim.verdicts(runs.sample(frac=1, random_state=0)))


@pytest.mark.parametrize("chapter", CASES)
def test_no_usable_run_leaves_it_open(chapter):
    shown = format_verdicts(CLAIMS[chapter].verdicts(records.table([])))
    assert set(shown["measured"]) == {"undefined for every seed"}
    assert set(shown["verdict"]) == {"not tested here"}
    for status in ("capped", "diverged"):
        unusable = CLAIMS[chapter].verdicts(CASES[chapter][0](True).assign(status=status)).set_index("prediction")
        if chapter not in ("02_linear_scaling", "08_progressive_sharpening", "09_label_smoothing"):
            assert not unusable["n"].any()  # those read trajectories, which a capped run has as well
        elif status == "diverged":
            assert not unusable["n"].drop("along training", errors="ignore").any()


def unaccurate(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, none of which gets 90 % of the images right."""
    return runs.assign(trajectory=runs["trajectory"].map(lambda path: path | {"train_accuracy": [0.1, 0.8, 0.8, 0.8]}))


MAIN, PAIR = "^(?!adaptive)", "minimum|accuracy"
PLAIN = "label_smoothing == 0 and mixup == 0 and sam_rho == 0 and augmentation == '' and jacobian_penalty == 0"
SGD_CAPPED = "stop == 'epochs' and optimizer == 'heavy_ball' and seed == 3"
OPEN = [  # chapter; which runs there are, or a change of all; which predictions are then undefined for every seed
    ("01", "batch_size == 50", ""),
    ("01", "learning_rate == 0.1", "^(?!edge)"),
    ("01", lambda runs: runs.drop(columns=["lambda_max", "test_accuracy"]), ""),
    ("02", "batch_size == 10", ""),
    ("02", "batch_size / learning_rate < 600", "along"),
    ("02", lambda runs: runs.drop(columns="lambda_max"), "sharpness"),
    ("03", "batch_size == 20", ""),
    ("03", "sam_rho == 0.1", ""),
    ("03", "sam_rho > 0", "accuracy|contrast"),
    ("03", lambda runs: without(runs, "batch_size == 20"), "small batch|contrast"),
    ("03", lambda runs: without(runs, "batch_size == 1000 and seed == 0", "diverged"), "large batch|contrast"),
    ("03", lambda runs: runs.drop(columns="test_accuracy"), "accuracy|contrast"),
    ("03", lambda runs: runs.assign(lambda_max=1.0), "sharpness"),
    ("04", "dropout < 0.5", "excess"),
    ("04", lambda runs: without(runs, "dropout > 0.5 and seed == 1"), "excess"),
    ("04", "dropout > 0", "modest"),
    ("04", "dropout in (0, 0.7)", "modest|excess"),
    ("04", lambda runs: runs.assign(lambda_max=None), "sharpness"),
    ("05", "batch_size == 50", "sharpness"),
    ("05", "model == 'small_cnn'", ""),
    ("05", lambda runs: runs.assign(batch_norm="eval"), ""),
    ("05", lambda runs: without(runs, "batch_size == 250"), "large batch"),
    ("06", "weight_decay == 0", ""),
    ("06", "weight_decay > 0", "accuracy|gap|vanishing|Jacobian"),
    ("06", lambda runs: without(runs, "weight_decay > 0", "diverged"), ""),
    ("06", lambda runs: runs.assign(frobenius=3.0), "Frobenius"),
    ("06", lambda runs: runs.drop(columns="lambda_max"), "sharpness"),
    ("06", lambda runs: runs.assign(softmax_jacobian_norm=None), "softmax"),
    ("07", "stop == 'epochs'", "adaptive"),
    ("07", "stop == 'train_loss'", MAIN),
    ("07", "averaging_start.isna()", MAIN),
    ("07", "stop != 'epochs' or optimizer == 'adamw'", MAIN),
    ("07", lambda runs: without(runs, SGD_CAPPED), MAIN),
    ("07", lambda runs: runs.assign(validation_size=100.0), MAIN),
    ("07", "optimizer in ('adam', 'adamw', 'adagrad')", ""),
    ("07", lambda runs: runs.assign(minimum_sharpness=None), "minimum sharpness"),
    ("08", main_runs, "width|linear|squared|closer"),
    ("09", lambda runs: runs.assign(trajectory=[{}] * len(runs)), ""),
    ("09", "label_smoothing == 0", ""),
    ("09", unaccurate, "equal accuracy"),
    ("10", "sam_rho == 0", PAIR),
    ("10", lambda runs: without(runs, "sam_rho > 0 and seed == 2", "diverged"), PAIR),
    ("10", lambda runs: runs.assign(loss="batch_softmax"), ""),
    ("10", lambda runs: runs.assign(minimum_sharpness=None), "minimum|corr"),
    ("10", lambda runs: runs.assign(sam_rho=runs["sam_rho"] + 0.1), PAIR),
    ("11", lambda runs: without(runs, PLAIN), r"Jacobian \(|^sharpness|penalty"),
    ("11", "mixup == 0", "mixup|the others"),
    ("11", lambda runs: runs.drop(columns="loss_gap"), r"loss gap|^gap"),
    ("11", lambda runs: runs.drop(columns="softmax_jacobian_norm"), "softmaxed"),
]


@pytest.mark.parametrize(("number", "change", "mute"), OPEN)
def test_missing_comparisons_leave_others_alone(number, change, mute):
    (chapter,) = (name for name in CASES if name.startswith(number))
    runs = CASES[chapter][0](True)
    verdicts = CLAIMS[chapter].verdicts(runs.query(change) if isinstance(change, str) else change(runs))
    undefined = verdicts["prediction"].map(lambda name: bool(re.search(mute, name)))
    assert ((verdicts["n"] == 0) == undefined).all()
    unguarded = verdicts["note"].str.endswith("undefined for every seed")  # a guard lacks its runs
    assert (verdicts["verdict"] == np.where(undefined | unguarded, "not tested here", "supported")).all()
    assert unguarded.sum() <= 1


@pytest.mark.parametrize(
    ("chapter", "setting"),
    [
        ("01_lr_batch", "batch_size == 50 and learning_rate == 0.1"),
        ("02_linear_scaling", "batch_size == 40 and learning_rate == 0.08"),
        ("03_sam", "batch_size == 20 and learning_rate == 0.1 and sam_rho == 0.2"),
        ("04_dropout", "learning_rate == 0.1 and dropout == 0.1"),
        ("05_batch_norm", "model == 'small_cnn' and batch_size == 50 and learning_rate == 0.1"),
        ("06_weight_decay", "max_epochs == 10 and weight_decay == 0.001"),
        ("10_minimum_sharpness", "optimizer == 'sgd' and sam_rho > 0"),
        ("11_regularisers", "sam_rho == 0.05"),
    ],
)
def test_incomplete_setting_is_excluded_alone(chapter, setting):
    claim, runs = CLAIMS[chapter], CASES[chapter][0](True)
    missed = numbers(claim, without(runs, f"{setting} and seed == 2"))
    assert missed == pytest.approx(numbers(claim, runs.query(f"not ({setting})")), nan_ok=True)
    assert sum(np.isfinite(number) for number in missed.values()) >= len(missed) - 1


def test_missing_seed_is_counted():
    runs = others.sharpening_runs(True)
    low = runs["trajectory"].map(lambda path: path | {"lambda_max": [1.0, 1.5, 1.2] + [1.1] * 7})
    runs["trajectory"] = runs["trajectory"].where(runs["seed"] != 3, low)
    row = CLAIMS["08_progressive_sharpening"].verdicts(runs).set_index("prediction").loc["edge of stability"]
    assert (row["n"], row["n_missing"], row["verdict"]) == (len(SEEDS) - 1, 1, "inconclusive")
