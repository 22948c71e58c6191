"""Figures by the data they draw: lines, labels, scales; never pixels."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from flatlib.errors import FlatlibError
from flatlib.figures import mean_curves, scatter, slope_by_group, trajectories
from flatlib.figures.axes import COLUMNS
from flatlib.figures.labels import spread
from flatlib.figures.style import BLUE, INK, VERMILLION, series
from flatlib.stats import bootstrap_mean

RATES = [0.01, 0.1, 1.0]


pytestmark = pytest.mark.usefixtures("style")


def table_of(batch_sizes=(32, 512), seeds=(0, 1, 2)):
    rows = [
        {
            "seed": seed,
            "batch_size": batch,
            "learning_rate": rate,
            "status": "reached",
            "lambda_max": (2 / rate) * (1 + 0.1 * seed) / (1 if batch == 512 else 4),
            "test_accuracy": 0.8 + 0.01 * seed + 0.02 * np.log10(rate),
        }
        for seed in seeds
        for batch in batch_sizes
        for rate in RATES
    ]
    return pd.DataFrame(rows)


def long_of(rates=(0.05, 0.1), seeds=(0, 1)):
    rows = [
        {"run_id": f"{rate}-{seed}", "learning_rate": rate, "update": t, "lambda_max": 1.0 + t + seed}
        for rate in rates
        for seed in seeds
        for t in range(0, 40 + 10 * seed, 10)  # later seeds train longer
    ]
    return pd.DataFrame(rows)


DRAW = {
    "mean_curves": lambda table, ax: mean_curves(table, "learning_rate", "lambda_max", ax, theory="2/eta"),
    "scatter": lambda table, ax: scatter(table, "lambda_max", "test_accuracy", ax),
    "slope_by_group": slope_by_group,
    "trajectories": lambda table, ax: trajectories(table, "lambda_max", ax, theory="2/eta"),
}


def input_of(kind, **options):
    return (long_of if kind == "trajectories" else table_of)(**options)


def texts(ax):
    return {text.get_text() for text in ax.texts}


def bold(ax):
    """The mean curves, by colour."""
    return {to_hex(line.get_color()).upper(): line for line in ax.lines if line.get_linewidth() == 1.8}


@pytest.mark.parametrize("kind", DRAW)
def test_same_table_gives_the_same_bytes(kind):
    def svg():
        fig, ax = plt.subplots()
        DRAW[kind](input_of(kind), ax)
        file = io.BytesIO()
        fig.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert svg() == svg()
    assert b"<text" in svg()


@pytest.mark.parametrize("kind", DRAW)
def test_an_empty_table_says_so_and_a_missing_column_is_refused(kind, ax):
    table = input_of(kind)
    DRAW[kind](table.iloc[:0], ax)
    assert [text.get_text() for text in ax.texts if "nothing to draw" in text.get_text()]
    assert not ax.lines
    with pytest.raises(FlatlibError, match="no column lambda_max"):
        DRAW[kind](table.drop(columns="lambda_max"), ax)


@pytest.mark.parametrize("kind", DRAW)
def test_one_seed_is_enough(kind, ax):
    DRAW[kind](input_of(kind, seeds=(0,)), ax)
    ax.figure.canvas.draw()
    assert not ax.spines["top"].get_visible()


def test_learning_rate_draws_means_seeds_and_band(ax):
    table = table_of()
    mean_curves(table, "learning_rate", "test_accuracy", ax)
    small = table[table["batch_size"] == 32]
    mean = bold(ax)[VERMILLION]
    assert mean.get_xdata() == pytest.approx(RATES)
    assert mean.get_ydata() == pytest.approx(100 * small.groupby("learning_rate")["test_accuracy"].mean())
    assert sum(line.get_linewidth() == 0.8 for line in ax.lines) == 6
    interval = bootstrap_mean(100 * small[small["learning_rate"] == 1.0]["test_accuracy"])
    edges = ax.collections[0].get_paths()[0].vertices
    assert np.unique(edges[edges[:, 0] == 1.0][:, 1]) == pytest.approx([interval.low, interval.high])


def test_learning_rate_names_axes_curves_and_theory(ax):
    mean_curves(table_of(), "learning_rate", "lambda_max", ax, theory="2/eta")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == r"Learning rate $\eta$"
    assert ax.get_ylabel() == r"Sharpness $\lambda_{\max}$"
    assert texts(ax) == {"batch 32", "batch 512", r"$2/\eta$"}
    assert ax.get_legend() is None
    (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed.get_ydata() == pytest.approx([200.0, 20.0, 2.0])


def test_an_unknown_theory_is_refused(ax):
    with pytest.raises(FlatlibError, match="known are 2/eta"):
        mean_curves(table_of(), "learning_rate", "lambda_max", ax, theory="1/eta")
    with pytest.raises(FlatlibError, match="needs by='learning_rate'"):
        trajectories(long_of().assign(batch_size=32), "lambda_max", ax, by="batch_size", theory="2/eta")


def test_capped_runs_are_open_and_leave_their_learning_rate_without_a_mean(ax):
    table = table_of()
    capped = (table["seed"] == 2) & (table["learning_rate"] == 0.01) & (table["batch_size"] == 512)
    table.loc[capped, "status"] = "capped"
    mean_curves(table, "learning_rate", "test_accuracy", ax)
    opened = [line.get_xydata() for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert np.concatenate(opened).ravel() == pytest.approx([0.01, 78.0])
    assert bold(ax)[BLUE].get_xdata() == pytest.approx(RATES[1:])
    assert bold(ax)[VERMILLION].get_xdata() == pytest.approx(RATES)


def test_a_series_without_a_mean_is_still_named(ax):
    table = table_of()
    table.loc[table["batch_size"] == 512, "status"] = "capped"
    mean_curves(table, "learning_rate", "test_accuracy", ax)
    assert texts(ax) == {"batch 32", "batch 512"}


def test_diverged_runs_leave_their_learning_rate_without_a_mean(ax):
    table = table_of()
    table.loc[(table["learning_rate"] == 1.0) & (table["seed"] == 0), ["status", "lambda_max"]] = ["diverged", np.nan]
    mean_curves(table, "learning_rate", "lambda_max", ax)
    assert bold(ax)[BLUE].get_xdata() == pytest.approx(RATES[:2])
    scatter(table.assign(status="diverged"), "learning_rate", "test_accuracy", ax)
    assert "nothing to draw: every run diverged" in [text.get_text() for text in ax.texts]


def test_a_value_that_is_not_positive_makes_the_axis_linear_and_stays(ax):
    table = table_of()
    table.loc[0, "lambda_max"] = -1.0
    scatter(table, "lambda_max", "test_accuracy", ax)
    assert ax.get_xscale() == "linear"
    assert -1.0 in np.concatenate([line.get_xdata() for line in ax.lines])


def test_scatter_draws_every_run_in_its_units(ax):
    table = table_of()
    scatter(table, "lambda_max", "test_accuracy", ax)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines])
    expected = table[["lambda_max", "test_accuracy"]].to_numpy() * [1, 100]
    assert np.sort(drawn, axis=0) == pytest.approx(np.sort(expected, axis=0))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["batch 32", "batch 512"]
    assert not ax.get_legend().get_frame_on()


def test_slope_trend_draws_the_mean_slope_of_each_batch_size(ax):
    slope_by_group(table_of(batch_sizes=(32, 128, 512)), ax)
    line = next(line for line in ax.lines if to_hex(line.get_color()) == INK)
    assert line.get_xdata() == pytest.approx([32, 128, 512])
    assert line.get_ydata() == pytest.approx([-2.0] * 3)  # 2 points per decade of η, so -2 per decade of 2/η
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["32", "128", "512"]
    assert ax.get_ylabel() == "Test accuracy, slope\n(points per decade of $\\lambda_{\\max}$)"


def test_slope_trend_without_a_slope_says_so(ax):
    slope_by_group(table_of().query("learning_rate == 0.1"), ax)
    assert "no seed" in ax.texts[0].get_text()


def test_trajectories_draw_what_all_runs_share_and_name_each_edge(ax):
    trajectories(long_of(), "lambda_max", ax, theory="2/eta")
    for mean in bold(ax).values():
        assert mean.get_xdata().tolist() == [0, 10, 20, 30]
        assert mean.get_ydata() == pytest.approx([1.5, 11.5, 21.5, 31.5])
    faint = [len(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 0.8]
    assert sorted(faint) == [4, 4, 5, 5]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert sorted(line.get_ydata()[0] for line in dashed) == pytest.approx([20.0, 40.0])
    assert texts(ax) == {r"$2/\eta$, $\eta$ = 0.05", r"$2/\eta$, $\eta$ = 0.1"}


def test_trajectories_without_theory_have_a_key(ax):
    trajectories(long_of(), "lambda_max", ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [r"$\eta$ = 0.05", r"$\eta$ = 0.1"]


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_batch_sizes_run_from_vermillion_circle_to_blue_square(n):
    looks = list(series(pd.DataFrame({"batch_size": 2 ** np.arange(n)}), "batch_size").values())
    assert (to_hex(looks[0].color).upper(), looks[0].marker) == (VERMILLION, "o")
    assert (to_hex(looks[-1].color).upper(), looks[-1].marker) == (BLUE, "s")
    assert len({look.marker for look in looks}) == n


def test_more_than_four_names_still_have_a_colour_each():
    looks = series(pd.DataFrame({"model": list("abcde")}), "model").values()
    assert len({to_hex(look.color) for look in looks}) == 5


def test_an_unnamed_column_says_where_to_name_it(ax):
    with pytest.raises(FlatlibError, match=r"figures\.axes\.COLUMNS"):
        scatter(table_of().assign(speed=1.0), "speed", "test_accuracy", ax)


def test_labels_end_up_apart_and_in_order():
    heights = np.array([5.0, 0.0, 1.0, 100.0, 2.0])
    apart = spread(heights, 10.0)
    assert np.diff(np.sort(apart)).min() >= 10 - 1e-9
    assert np.argsort(apart).tolist() == np.argsort(heights).tolist()
    assert apart[3] == 100.0


def test_every_axis_label_renders(ax):
    for i, axis in enumerate(COLUMNS.values()):
        ax.text(0, i / len(COLUMNS), axis.label)
    ax.figure.canvas.draw()
