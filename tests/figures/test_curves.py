"""Curves by the data they draw: means, seeds, bands, theory, and axes that may start at zero."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from flatlib.errors import FlatlibError
from flatlib.figures import mean_curves, slope_by_group, trajectories
from flatlib.figures.style import BLUE, VERMILLION
from flatlib.stats import bootstrap_mean

pytestmark = pytest.mark.usefixtures("style")
RATES = [0.01, 0.1, 1.0]
RADII = [0.0, 0.05, 0.1, 0.4]


def table_of(batch_sizes=(32, 512)) -> pd.DataFrame:
    rows = [
        (s, batch, rate, 2 / rate * (1 + 0.1 * s) / (1 if batch == 512 else 4), 0.8 + 0.01 * s + 0.02 * np.log10(rate))
        for s in range(3)
        for batch in batch_sizes
        for rate in RATES
    ]
    columns = ["seed", "batch_size", "learning_rate", "lambda_max", "test_accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(status="reached")


def long_table() -> pd.DataFrame:
    rows = [
        (f"{rate}-{seed}", rate, t, 1.0 + t + seed)
        for rate in (0.05, 0.1)
        for seed in (0, 1)
        for t in range(0, 40 + 10 * seed, 10)  # later seeds train longer
    ]
    return pd.DataFrame(rows, columns=["run_id", "learning_rate", "update", "lambda_max"])


def sam_runs(radii=RADII) -> pd.DataFrame:
    rows = [(seed, rho, 10 - rho + 0.1 * seed) for seed in range(3) for rho in radii]
    return pd.DataFrame(rows, columns=["seed", "sam_rho", "lambda_max"]).assign(status="reached", batch_size=50)


def labelled(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def means(ax) -> dict:
    """The mean curves, by colour."""
    return {to_hex(line.get_color()).upper(): line for line in labelled(ax, "_mean")}


def texts(ax) -> set[str]:
    return {text.get_text() for text in ax.texts}


def test_means_seeds_and_band(ax):
    table = table_of()
    mean_curves(table, "learning_rate", "test_accuracy", ax)
    small = table[table["batch_size"] == 32]
    mean = means(ax)[VERMILLION]
    assert mean.get_xdata() == pytest.approx(RATES)
    assert mean.get_ydata() == pytest.approx(100 * small.groupby("learning_rate")["test_accuracy"].mean())
    assert len(labelled(ax, "_seed")) == 6
    interval = bootstrap_mean(100 * small[small["learning_rate"] == 1.0]["test_accuracy"])
    edges = ax.collections[0].get_paths()[0].vertices
    assert np.unique(edges[edges[:, 0] == 1.0][:, 1]) == pytest.approx([interval.low, interval.high])


def test_axes_curves_and_theory_are_named(ax):
    mean_curves(table_of(), "learning_rate", "lambda_max", ax, theory="2/eta")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"Learning rate $\eta$", r"Sharpness $\lambda_{\max}$")
    assert texts(ax) == {"batch 32", "batch 512", r"$2/\eta$"}
    assert ax.get_legend() is None
    (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed.get_ydata() == pytest.approx([200.0, 20.0, 2.0])


def test_theory_needs_learning_rates(ax):
    with pytest.raises(FlatlibError, match="known are 2/eta"):
        mean_curves(table_of(), "learning_rate", "lambda_max", ax, theory="1/eta")
    with pytest.raises(FlatlibError, match="needs by='learning_rate'"):
        trajectories(long_table().assign(batch_size=32), "lambda_max", ax, by="batch_size", theory="2/eta")
    with pytest.raises(FlatlibError, match=r"needs x='learning_rate', got x='sam_rho'"):
        mean_curves(sam_runs(), "sam_rho", "lambda_max", ax, theory="2/eta")


@pytest.mark.parametrize("status", ["capped", "diverged"])
def test_incomplete_seeds_have_no_mean(status, ax):
    table = table_of()
    lost = (table["seed"] == 2) & (table["learning_rate"] == 0.01) & (table["batch_size"] == 512)
    table.loc[lost, ["status", "test_accuracy"]] = [status, 0.76 if status == "capped" else np.nan]
    mean_curves(table, "learning_rate", "test_accuracy", ax)
    capped = np.concatenate([line.get_xydata() for line in labelled(ax, "_capped")])
    assert capped.ravel() == pytest.approx([0.01, 76.0] if status == "capped" else [])
    assert all(line.get_markerfacecolor() == "none" for line in labelled(ax, "_capped"))
    assert means(ax)[BLUE].get_xdata() == pytest.approx(RATES[1:])
    assert means(ax)[VERMILLION].get_xdata() == pytest.approx(RATES)
    mean_curves(table.assign(status="capped"), "learning_rate", "test_accuracy", ax.figure.subplots())
    assert texts(ax.figure.axes[-1]) == {"batch 32", "batch 512"}, "a series without a mean is named"


def test_zero_stands_left_of_log_axis(ax):
    mean_curves(sam_runs(), "sam_rho", "lambda_max", ax)
    assert ax.get_xscale() == "symlog"
    assert ax.get_xticks().tolist() == RADII
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.05", "0.1", "0.4"]
    assert not ax.xaxis.get_minorticklocs().size
    zero, first, second, last = (ax.transData.transform((rho, 1))[0] for rho in RADII)
    assert ax.transAxes.transform((0, 0))[0] < zero < first < second < last
    assert (last - second) / (second - first) == pytest.approx(2)  # two octaves, one octave
    (mean,) = labelled(ax, "_mean")
    assert mean.get_xdata() == pytest.approx(RADII)
    ax.figure.canvas.draw()


def test_scales_without_positive_values(ax):
    for radii, scale in ((RADII[1:], "log"), ([0.0], "linear"), ([-0.1, 0.1], "linear")):
        mean_curves(sam_runs(radii), "sam_rho", "lambda_max", ax)
        assert ax.get_xscale() == scale
    runs = sam_runs().assign(lambda_max=0.0, dropout=lambda table: table["sam_rho"])
    mean_curves(runs, "sam_rho", "lambda_max", ax)
    assert (ax.get_xscale(), ax.get_yscale()) == ("symlog", "linear")
    mean_curves(runs, "dropout", "lambda_max", ax)
    assert ax.get_xscale() == "linear"


def test_slopes_have_mean_per_group(ax):
    slope_by_group(table_of(batch_sizes=(32, 128, 512)), ax)
    marks = [bar.lines[0].get_xydata()[0] for bar in ax.containers]
    assert np.array(marks).T[0] == pytest.approx([32, 128, 512])
    assert np.array(marks).T[1] == pytest.approx([-2.0] * 3)  # 2 points per decade of η, so -2 per decade of 2/η
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["32", "128", "512"]
    assert ax.get_ylabel() == "Test accuracy, slope\n(points per decade of $\\lambda_{\\max}$)"
    slope_by_group(table_of().query("learning_rate == 0.1"), ax)
    assert "no seed" in ax.texts[0].get_text()


def test_trajectories_average_common_updates(ax):
    trajectories(long_table(), "lambda_max", ax, theory="2/eta")
    for mean in means(ax).values():
        assert mean.get_xdata().tolist() == [0, 10, 20, 30]
        assert mean.get_ydata() == pytest.approx([1.5, 11.5, 21.5, 31.5])
    assert sorted(len(line.get_xdata()) for line in labelled(ax, "_seed")) == [4, 4, 5, 5]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert sorted(line.get_ydata()[0] for line in dashed) == pytest.approx([20.0, 40.0])
    assert texts(ax) == {r"$2/\eta$, $\eta$ = 0.05", r"$2/\eta$, $\eta$ = 0.1"}
    trajectories(long_table(), "lambda_max", ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [r"$\eta$ = 0.05", r"$\eta$ = 0.1"]
