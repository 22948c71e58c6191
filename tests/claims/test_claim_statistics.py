"""Which runs single statistics of the claims compare, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

import synthetic_runs as kaur
import synthetic_runs_others as others
from flatlib.claims import CLAIMS, batch_norm, label_smoothing, linear_scaling, minimum_sharpness
from flatlib.claims import progressive_sharpening as ps
from flatlib.claims.along_run import FITTED, trajectory
from flatlib.claims.lr_batch import accuracy_at_equal_sharpness
from flatlib.errors import FlatlibError
from synthetic_runs import MEAN_NOISE, RATES, SEEDS, numbers, without, words

SCALING, SAM, DROPOUT, BATCH_NORM = (
    CLAIMS[name] for name in ("02_linear_scaling", "03_sam", "04_dropout", "05_batch_norm")
)
DECAY, ADAM, MINIMUM, REGULARISERS = (
    CLAIMS[name] for name in ("06_weight_decay", "07_adam_vs_sgd", "10_minimum_sharpness", "11_regularisers")
)
POINT = 100 * MEAN_NOISE  # an accuracy in percentage points, as a mean over the seeds


@pytest.mark.parametrize(
    ("small", "large", "gap"),  # (lambda_max, test_accuracy) of one seed at two batch sizes
    [
        ([(1, 0.9), (100, 0.7)], [(10, 0.6), (1000, 0.6)], 0.15),  # over log10 x in [1, 2], 0.8 .. 0.7 less 0.6
        ([(100, 0.0), (10, 1.0), (1, 0.0)], [(1, 0.0), (100, 0.0)], 0.5),  # a triangle of height 1
        ([(1, 0.8), (1, 1.0), (10, 0.9)], [(1, 0.5), (10, 0.5)], 0.4),  # runs of equal sharpness at their mean
        ([(1, 0.9), (100, 0.7)], [(200, 0.6), (1000, 0.6)], np.nan),
        ([(1, 0.9), (100, 0.7)], [(100, 0.6), (1000, 0.6)], np.nan),
        ([(1, 0.9), (100, 0.7)], [(np.nan, 0.6)], np.nan),
    ],
)
def test_accuracy_gap_is_integrated_over_overlap(small, large, gap):
    rows = [(0, size, 0.1, "reached", *point) for size, points in ((32, small), (512, large)) for point in points]
    names = ["seed", "batch_size", "learning_rate", "status", "lambda_max", "test_accuracy"]
    found = accuracy_at_equal_sharpness(pd.DataFrame(rows, columns=names))
    assert found.to_dict() == pytest.approx({0: gap}, nan_ok=True)


def test_epochs_of_tracked_runs_are_whole():
    points = linear_scaling.tracked(kaur.scaling_runs(True))
    assert set(points["alpha"]) == {1000}
    for _, run in points.groupby("run_id"):
        assert run["epoch"].tolist() == [2 * k for k in range(11)]
    with pytest.raises(FlatlibError, match="tracked"):
        linear_scaling.tracked(kaur.scaling_runs(True).query("batch_size / learning_rate < 600"))


def test_share_is_of_common_epochs():
    runs = kaur.scaling_runs(True)
    falls = [1.0, *[999.0] * 2, *[0.1] * 6]  # flatter at 6 of 8 epochs after the start
    path = {"update": [14 * k for k in range(9)], "lambda_max": falls}
    largest = runs["learning_rate"] == 0.16
    runs["trajectory"] = [path if cut else whole for cut, whole in zip(largest, runs["trajectory"], strict=True)]
    assert linear_scaling.share_ordered(linear_scaling.tracked(runs)).tolist() == [0.75] * 5
    assert words(SCALING, runs)["along training"] == "contradicted"


def test_sam_compares_within_a_rate():
    runs = kaur.sam_runs(True)
    some = runs[(runs["learning_rate"] == 0.05) | (runs["sam_rho"] < 0.1)]
    assert numbers(SAM, some) == pytest.approx(numbers(SAM, runs))


def test_largest_rate_of_half_is_excessive():
    runs = kaur.dropout_runs(True)
    half = runs.assign(dropout=runs["dropout"].replace({0.4: 0.5}))
    assert numbers(DROPOUT, half)["excess (accuracy)"] == pytest.approx(-0.065 * POINT)
    assert numbers(DROPOUT, half.query("dropout < 0.7"))["excess (accuracy)"] == pytest.approx(0.185 * POINT)
    capped = without(runs, "learning_rate == 0.1 and dropout > 0.2")  # the other learning rate decides alone
    assert numbers(DROPOUT, capped)["excess (accuracy)"] == pytest.approx(-0.065 * POINT)
    assert words(DROPOUT, capped)["excess (sharpness)"] == "supported"


def test_largest_rate_counts_with_both_networks():
    runs = without(kaur.batch_norm_runs(True), "model == 'small_cnn_bn' and batch_size == 50 and learning_rate == 0.2")
    gain = (0.1 + 0.06) / 2  # at 0.1 with the small batch, at 0.2 with the large one
    assert numbers(BATCH_NORM, runs)["accuracy (large rate)"] == pytest.approx(gain * POINT)


def test_one_rate_is_neither_small_nor_large():
    runs = kaur.batch_norm_runs(True).query("learning_rate == 0.2")
    with pytest.raises(FlatlibError, match="only one counts"):
        batch_norm.gain_at("min")(runs)
    found = BATCH_NORM.verdicts(runs).set_index("prediction")["verdict"].filter(like="accuracy")
    assert set(found) == {"not tested here"}


def test_a_grid_above_the_small_rates_tests_none():
    runs = kaur.batch_norm_runs(False)
    higher = runs.assign(learning_rate=runs["learning_rate"].replace(0.005, 0.02))
    assert words(BATCH_NORM, runs)["accuracy (small rate)"] == "contradicted"
    assert words(BATCH_NORM, higher)["accuracy (small rate)"] == "not tested here"
    assert words(BATCH_NORM, higher)["accuracy (large rate)"] == "contradicted"


def test_networks_that_do_not_fit_test_no_vanishing():
    runs = others.decay_runs(False)
    unfit = runs.assign(train_accuracy=0.93 * runs["train_accuracy"])
    for name, fitted in (("vanishing sharpness", "contradicted"), ("accuracy", "contradicted")):
        assert words(DECAY, runs)[name] == fitted
        assert words(DECAY, unfit)[name] == ("not tested here" if name.startswith("vanishing") else fitted)


def test_a_network_that_learned_nothing_is_guarded():
    """Its regulariser alone is not tested; a correlation over all of them is not, either."""
    runs = others.regulariser_runs(True)
    lost = runs.assign(train_accuracy=np.where(runs["augmentation"] == "flip", 0.17, 1.0))
    untested = {name for name, word in words(REGULARISERS, lost).items() if word == "not tested here"}
    single = {"logits' Jacobian (augmentation)", "softmaxed Jacobian (augmentation)", "sharpness (the others)"}
    assert untested == single | {name for name in words(REGULARISERS, runs) if " gap" in name}


def test_a_model_above_the_edge_tests_no_sharpening():
    claim, runs = CLAIMS["08_progressive_sharpening"], others.sharpening_runs(True)
    linear = runs["model"] == ps.LINEAR
    above = runs.assign(learning_rate=runs["learning_rate"].mask(linear, 2.5))
    assert words(claim, above)["sharpness (linear model)"] == "not tested here"
    assert words(claim, above)["Jacobian (linear model)"] == "supported"


def test_every_learning_rate_is_judged():
    """One rate of three hovers outside, and the mean of all inside."""
    claim, runs = CLAIMS["08_progressive_sharpening"], others.sharpening_runs(True)
    high = runs["trajectory"].map(lambda path: path | {"lambda_max": path["lambda_max"][:5] + [1.8 * 20] * 5})
    runs["trajectory"] = high.where((runs["learning_rate"] == 0.1) & (runs["width"] == 1), runs["trajectory"])
    assert numbers(claim, runs)["edge of stability"] == pytest.approx(1.8)
    assert words(claim, runs)["edge of stability"] == "contradicted"


def test_the_farthest_rate_is_so_as_a_ratio():
    for means, rate in (({0.1: 1.2, 0.2: 0.8}, 0.2), ({0.1: 1.3, 0.2: 0.8}, 0.1), ({0.1: 9.0, 0.2: 0.0}, 0.2)):
        assert ps.farthest_from_edge(pd.Series(means)) == rate


@pytest.mark.parametrize(("values", "peaks"), [([1, 9, 8, 8, 8], True), ([1, 2, 3, 4, 5], False), ([9, 8], True)])
def test_what_still_rises_has_no_peak(values, peaks):
    assert label_smoothing.has_peak(pd.Series(values)) == peaks


def test_truncated_runs_have_no_peaks_to_compare():
    claim, runs = CLAIMS["09_label_smoothing"], others.smoothing_runs(True)
    short = runs.assign(trajectory=runs["trajectory"].map(lambda path: {k: v[:2] for k, v in path.items()}))
    assert set(words(claim, short).values()) == {"not tested here"}
    assert set(words(claim, runs).values()) == {"supported"}


def test_other_modes_change_no_verdict():
    main = kaur.batch_norm_runs(True)
    modes = pd.concat([kaur.batch_norm_runs(False, mode) for mode in ("eval", "recalibrated")])
    modes = modes.query("batch_size == 50 and model == 'small_cnn_bn'").drop(columns="between_iterates")
    everything = pd.concat([main, modes], ignore_index=True)
    assert numbers(BATCH_NORM, everything) == numbers(BATCH_NORM, main)
    found = batch_norm.by_mode(everything)
    assert found["how"].value_counts().to_dict() == dict.fromkeys(
        ["train", "eval", "recalibrated", "between iterates"], len(RATES) * len(SEEDS)
    )
    assert set(zip(found["model"], found["batch_size"], strict=True)) == {("small_cnn_bn", 50)}
    kept = found.set_index(["how", "learning_rate", "seed"])["lambda_max"]
    pd.testing.assert_series_equal(100 * kept["between iterates"], kept["train"], check_names=False)


def test_other_kinds_change_no_verdict():
    """Density runs of one seed; tuning runs; runs on the loss of the paper's code."""
    runs = others.decay_runs(True)
    measured = ("lambda_max", "frobenius", "test_accuracy", "generalization_gap", "softmax_jacobian_norm")
    density = runs[runs["seed"] == 0][[name for name in runs if name not in measured]]
    tuning = others.adam_runs(False).query("stop == 'epochs'").assign(validation_size=100.0)
    coded = others.minimum_runs(False, "batch_softmax")
    adam, stated = others.adam_runs(True), others.minimum_runs(True)
    for claim, kept, more in ((DECAY, runs, density), (ADAM, adam, tuning), (MINIMUM, stated, coded)):
        assert numbers(claim, pd.concat([kept, more], ignore_index=True)) == numbers(claim, kept)


def test_windows_end_where_data_are_fitted():
    run = others.sharpening_runs(True).iloc[0]
    losses = trajectory(run)["train_loss"]
    assert losses.iloc[-2] > FITTED >= losses.iloc[-1]
    for loss, points in ((0.2, 1), (1.0, 10)):
        run["trajectory"] = run["trajectory"] | {"train_loss": [loss] * 10}
        assert len(trajectory(run)) == points


def test_peak_and_point_of_equal_accuracy():
    summary = label_smoothing.summarized(others.smoothing_runs(True))
    smoothing, scale = summary["label_smoothing"], 0.001 / summary["learning_rate"] ** 3
    factors = 1 + 0.01 * np.sin(summary["seed"])
    expected = {
        "peak_lambda_max": (10 - smoothing) * scale,
        "lambda_max_at_accuracy": (5 - smoothing) * scale,
        "peak_jacobian": 2 * (1 - smoothing),
        "jacobian_at_accuracy": 1 - smoothing,
    }
    for column, values in expected.items():
        assert summary[column].to_numpy() == pytest.approx(values * factors)


def test_run_that_still_rises_has_no_peak():
    runs = others.smoothing_runs(True)
    rising = runs.eval("loss == 'cross_entropy' and label_smoothing == 0.5 and seed == 0 and learning_rate == 0.02")
    longer = {"lambda_max": [1.0, 2, 3, 4]}
    changed = [run | longer if here else run for run, here in zip(runs["trajectory"], rising, strict=True)]
    table = runs.assign(trajectory=changed)
    found = label_smoothing.summarized(table)["has_peak_lambda_max"]
    assert found.ne(True).equals(rising[runs["loss"] == "cross_entropy"])


def test_the_worst_optimizer_is_judged():
    """One of six turns the prediction round; its numbers are those of its seeds."""
    runs = others.minimum_runs(True)
    inside = (runs["optimizer"] == "sgd") & (runs["sam_rho"] > 0)
    worse = runs.assign(
        minimum_sharpness=runs["minimum_sharpness"] * np.where(inside, 4, 1),
        test_accuracy=runs["test_accuracy"] - np.where(inside, 0.05, 0),
    )
    found = MINIMUM.verdicts(worse).set_index("prediction")
    assert found["estimate"]["minimum sharpness (every optimizer)"] == pytest.approx(1)
    assert found["estimate"]["accuracy (every optimizer)"] == pytest.approx(0.02 * POINT - 5)
    assert found["verdict"].filter(like="every").tolist() == ["contradicted", "contradicted"]
    assert found["estimate"]["minimum sharpness"] == pytest.approx(-4 / 6), "the mean over the optimizers"
    table = minimum_sharpness.by_optimizer(worse).set_index("optimizer")
    assert len(table) == 6
    assert table.loc["sgd"].tolist()[1] == "1, all 5 seeds"
    assert table.loc["sgd"].tolist()[2].startswith("-2.9")
    capped = without(runs, "optimizer == 'sgd' and sam_rho > 0 and seed == 0")
    assert numbers(MINIMUM, capped)["accuracy (every optimizer)"] == pytest.approx(0.02 * POINT)


def test_capped_weakest_strength_yields_to_next():
    runs = without(others.regulariser_runs(True), "mixup == 0.2 and seed == 4")
    assert numbers(REGULARISERS, runs)["logits' Jacobian (mixup)"] == 20
