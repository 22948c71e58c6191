"""Figures of settings without an order, of settings that may be zero, and of a spectrum."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from flatlib.errors import FlatlibError
from flatlib.figures import dot_plot, mean_curves, spectrum
from flatlib.stats import bootstrap_mean

pytestmark = pytest.mark.usefixtures("style")
RADII = [0.0, 0.05, 0.1, 0.4]


def sam_runs(radii=RADII) -> pd.DataFrame:
    rows = [(seed, rho, 10 - rho + 0.1 * seed) for seed in range(3) for rho in radii]
    return pd.DataFrame(rows, columns=["seed", "sam_rho", "lambda_max"]).assign(status="reached", batch_size=50)


def test_a_setting_of_zero_stands_left_of_a_logarithmic_axis(ax):
    mean_curves(sam_runs(), "sam_rho", "lambda_max", ax)
    assert ax.get_xscale() == "symlog"
    assert ax.get_xticks().tolist() == RADII
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.05", "0.1", "0.4"]
    assert not ax.xaxis.get_minorticklocs().size
    zero, first, second, last = (ax.transData.transform((rho, 1))[0] for rho in RADII)
    assert zero < first < second < last
    assert (last - second) / (second - first) == pytest.approx(2)  # two octaves, one octave
    assert zero > ax.transAxes.transform((0, 0))[0], "zero is drawn inside the axes"
    (mean,) = [line for line in ax.lines if line.get_linewidth() == 1.8]
    assert mean.get_xdata() == pytest.approx(RADII)
    ax.figure.canvas.draw()


@pytest.mark.parametrize(("radii", "scale"), [(RADII[1:], "log"), ([0.0], "linear"), ([-0.1, 0.1], "linear")])
def test_without_a_zero_among_others_the_axis_is_as_ever(ax, radii, scale):
    mean_curves(sam_runs(radii), "sam_rho", "lambda_max", ax)
    assert ax.get_xscale() == scale


def test_a_setting_on_a_linear_axis_may_be_zero(ax):
    mean_curves(sam_runs().rename(columns={"sam_rho": "dropout"}), "dropout", "lambda_max", ax)
    assert ax.get_xscale() == "linear"


def test_a_measure_of_zero_makes_its_axis_linear(ax):
    mean_curves(sam_runs().assign(lambda_max=0.0), "sam_rho", "lambda_max", ax)
    assert (ax.get_xscale(), ax.get_yscale()) == ("symlog", "linear")


def test_a_theory_of_the_learning_rate_is_not_drawn_over_another_setting(ax):
    with pytest.raises(FlatlibError, match=r"needs x='learning_rate', got x='sam_rho'"):
        mean_curves(sam_runs(), "sam_rho", "lambda_max", ax, theory="2/eta")


def optimizer_runs() -> pd.DataFrame:
    rows = [
        (seed, name, where, value * (1 + 0.1 * seed))
        for seed in range(3)
        for name, where, value in (("sgd", "alone", 1.0), ("adam", "alone", 20.0), ("sgd", "inside SAM", 0.5))
    ]
    columns = ["seed", "optimizer", "training", "minimum_sharpness"]
    return pd.DataFrame(rows, columns=columns).assign(status="reached", test_accuracy=0.5)


def marks(ax) -> list[tuple[float, float]]:
    """Where the means stand: x and y."""
    return [tuple(bar.lines[0].get_xydata()[0]) for bar in ax.containers]


def test_rows_have_a_mean_with_its_interval_for_each_group(ax):
    runs = optimizer_runs()
    dot_plot(runs, "minimum_sharpness", ax, row="optimizer", by="training")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sgd", "adam"]  # in the order of the table
    assert ax.get_yticks().tolist() == [1, 0]
    expected = [("sgd", "alone", 1.15), ("adam", "alone", 0.15), ("sgd", "inside SAM", 0.85)]
    assert len(marks(ax)) == len(expected)
    for (x, y), bar, (name, training, height) in zip(marks(ax), ax.containers, expected, strict=True):
        chosen = runs[(runs["optimizer"] == name) & (runs["training"] == training)]["minimum_sharpness"]
        mean = bootstrap_mean(chosen)
        assert (x, y) == pytest.approx((mean.estimate, height))
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 0] == pytest.approx([mean.low, mean.high])
        dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "." and line.get_ydata()[0] == y]
        assert np.concatenate(dots) == pytest.approx(chosen)
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "Minimum sharpness")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["alone", "inside SAM"]


def test_rows_are_in_the_units_of_their_axis_and_leave_out_diverged_runs(ax):
    runs = optimizer_runs()
    runs.loc[runs["optimizer"] == "adam", "status"] = "diverged"
    dot_plot(runs, "test_accuracy", ax, row="optimizer", by="training")
    assert [x for x, _ in marks(ax)] == [50.0, 50.0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sgd"]
    assert (ax.get_xscale(), ax.get_xlabel()) == ("linear", "Test accuracy (%)")


def test_a_group_with_a_capped_run_has_no_mean_and_the_run_is_open(ax):
    runs = optimizer_runs()
    runs.loc[0, "status"] = "capped"  # plain SGD, one seed of three
    dot_plot(runs, "minimum_sharpness", ax, row="optimizer", by="training")
    assert [height for _, height in marks(ax)] == [0.15, 0.85]
    (capped,) = [line for line in ax.lines if line.get_marker() == "." and line.get_mfc() == "none"]
    assert capped.get_xdata() == pytest.approx(runs.loc[[0], "minimum_sharpness"])


def test_rows_on_a_log_axis_have_plain_numbers(ax):
    dot_plot(optimizer_runs().query("optimizer == 'sgd'"), "minimum_sharpness", ax, row="optimizer", by="training")
    ax.figure.canvas.draw()
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert {"0.5", "1"} <= set(labels)
    assert not any(tick.get_text() for tick in ax.get_xticklabels(minor=True))


def test_one_seed_has_a_mark_and_no_bar(ax):
    dot_plot(optimizer_runs().query("seed == 0"), "minimum_sharpness", ax, row="optimizer", by="training")
    assert len(marks(ax)) == 3
    assert not any(bar.has_xerr for bar in ax.containers)


def test_a_value_that_is_not_positive_makes_rows_linear(ax):
    runs = optimizer_runs()
    runs.loc[0, "minimum_sharpness"] = -1.0
    dot_plot(runs, "minimum_sharpness", ax, row="optimizer", by="training")
    assert ax.get_xscale() == "linear"


def test_rows_of_nothing_say_so_and_miss_columns_by_name(ax):
    runs = optimizer_runs()
    dot_plot(runs.assign(status="diverged"), "minimum_sharpness", ax, row="optimizer", by="training")
    assert "every run diverged" in ax.texts[0].get_text()
    with pytest.raises(FlatlibError, match="no column training"):
        dot_plot(runs.drop(columns="training"), "minimum_sharpness", ax, row="optimizer", by="training")


SPECTRUM = {"lambda_max": 7.0, "density_node_00": -1.0, "density_weight_00": 0.3, "density_node_01": 5.0}
SPECTRUM |= {"density_weight_01": 0.7, "density_node_02": np.nan, "density_weight_02": np.nan}


def stems(ax) -> list[list[float]]:
    return [[*segment[:, 0], *segment[:, 1]] for segment in ax.collections[0].get_segments()]


def test_a_spectrum_has_a_stem_at_each_node_as_high_as_its_weight(ax):
    spectrum(pd.Series(SPECTRUM), ax)
    np.testing.assert_allclose(stems(ax), [[-1, -1, 1e-30, 0.3], [5, 5, 1e-30, 0.7]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert ax.get_ylim() == pytest.approx((0.1, 1.05))
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"Eigenvalue $\lambda$", "Share of the spectrum")


@pytest.mark.parametrize("weights", [(0.3, 0.003), (0.003, 0.3), (1e-6, 1e-7)])
def test_spectra_side_by_side_share_an_axis_that_shows_all_of_both(style, weights):
    left, right = plt.subplots(1, 2, sharey=True)[1]
    for ax, weight in zip((left, right), weights, strict=True):
        spectrum(pd.Series(SPECTRUM | {"density_weight_00": weight}), ax)
    assert left.get_ylim() == right.get_ylim() == pytest.approx((min(weights) / 3, 1.05))


def test_a_weight_of_zero_has_no_stem(ax):
    spectrum(pd.Series(SPECTRUM | {"density_weight_01": 0.0}), ax)
    assert [stem[0] for stem in stems(ax)] == [-1]


def test_a_spectrum_at_matched_loss_is_not_mixed_with_the_one_at_the_end(ax):
    spectrum(pd.Series(SPECTRUM | {"density_node_00_at_loss": 9.0, "density_weight_00_at_loss": 1.0}), ax)
    assert [stem[0] for stem in stems(ax)] == [-1, 5]


def test_a_run_without_a_spectrum(ax):
    spectrum(pd.Series(dict.fromkeys(SPECTRUM, np.nan)), ax)
    assert "no spectrum" in ax.texts[0].get_text()
    with pytest.raises(FlatlibError, match="ask for the measure density"):
        spectrum(pd.Series({"lambda_max": 7.0}), ax)
