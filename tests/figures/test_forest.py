"""Forest plots and the grid of verdicts, by the data they draw."""

import numpy as np
import pandas as pd
import pytest

from flatlib.figures import dot_plot, forest_plot, ratio_plot, verdict_grid
from flatlib.stats import bootstrap_mean

pytestmark = pytest.mark.usefixtures("style")


@pytest.fixture
def runs() -> pd.DataFrame:
    rows = [
        (seed, name, where, value * (1 + 0.1 * seed))
        for seed in range(3)
        for name, where, value in (("sgd", "alone", 1.0), ("adam", "alone", 20.0), ("sgd", "inside SAM", 0.5))
    ]
    columns = ["seed", "optimizer", "training", "minimum_sharpness"]
    return pd.DataFrame(rows, columns=columns).assign(status="reached", test_accuracy=0.5)


def draw_rows(runs, ax, x="minimum_sharpness"):
    dot_plot(runs, x, ax, row="optimizer", by="training")
    return [tuple(bar.lines[0].get_xydata()[0]) for bar in ax.containers]  # x and y of the means


def row_names(ax) -> list[str]:
    return [tick.get_text() for tick in ax.get_yticklabels()]


def test_dot_plot_has_means_and_intervals(runs, ax):
    marks = draw_rows(runs, ax)
    assert row_names(ax) == ["sgd", "adam"]  # in the order of the table
    assert ax.get_yticks().tolist() == [1, 0]
    expected = [("sgd", "alone", 1.15), ("adam", "alone", 0.15), ("sgd", "inside SAM", 0.85)]
    for (x, y), bar, (name, training, height) in zip(marks, ax.containers, expected, strict=True):
        chosen = runs[(runs["optimizer"] == name) & (runs["training"] == training)]["minimum_sharpness"]
        mean = bootstrap_mean(chosen)
        assert (x, y) == pytest.approx((mean.estimate, height))
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 0] == pytest.approx([mean.low, mean.high])
        dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "." and line.get_ydata()[0] == y]
        assert np.concatenate(dots) == pytest.approx(chosen)
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "Minimum sharpness")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["alone", "inside SAM"]
    draw_rows(runs.query("optimizer == 'sgd'"), other := ax.figure.subplots())
    ax.figure.canvas.draw()
    assert {"0.5", "1"} <= {tick.get_text() for tick in other.get_xticklabels()}, "plain numbers on a log axis"
    assert not any(tick.get_text() for tick in other.get_xticklabels(minor=True))


def test_dot_plot_excludes_diverged_runs(runs, ax):
    runs.loc[runs["optimizer"] == "adam", "status"] = "diverged"
    assert [x for x, _ in draw_rows(runs, ax, "test_accuracy")] == [50.0, 50.0]
    assert row_names(ax) == ["sgd"]
    assert (ax.get_xscale(), ax.get_xlabel()) == ("linear", "Test accuracy (%)")


def test_capped_run_leaves_group_without_mean(runs, ax):
    runs.loc[0, "status"] = "capped"  # plain SGD, one seed of three
    assert [height for _, height in draw_rows(runs, ax)] == [0.15, 0.85]
    (capped,) = [line for line in ax.lines if line.get_marker() == "." and line.get_mfc() == "none"]
    assert capped.get_xdata() == pytest.approx(runs.loc[[0], "minimum_sharpness"])


def test_ratios_stand_in_rows(ax):
    table = pd.DataFrame({"A": [2.0, np.nan], "B": [4.0, 8.0], "C": [np.nan, np.nan]}, index=["one", "two"])
    ratio_plot(table, ax, reference="ours", label="Time")
    reference, *dots = ax.lines
    assert list(reference.get_xdata()) == [1, 1]
    assert [line.get_label() for line in dots] == ["A", "B"]
    np.testing.assert_array_equal(dots[1].get_xdata(), [4.0, 8.0])
    assert row_names(ax) == ["one", "two"]
    assert dots[0].get_ydata()[0] > dots[0].get_ydata()[1]
    assert ax.get_xlabel() == "Time (ours = 1)"


def test_estimates_stand_in_rows_with_intervals(ax):
    rows = [("A", "all", 0.5, 0.1, 0.9), ("B", "all", -0.2, -np.inf, np.inf), ("A", "some", 0.3, 0.2, 0.4)]
    table = pd.DataFrame(rows, columns=["row", "series", "estimate", "low", "high"])
    forest_plot(table, ax, label="τ")
    zero, first, second = ax.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert [line.get_label() for line in (first, second)] == ["all", "some"]
    assert first.get_xdata().tolist() == [0.5, -0.2]
    assert first.get_ydata()[0] > second.get_ydata()[0] > first.get_ydata()[1]
    segments = [segment[:, 0].tolist() for bars in ax.collections for segment in bars.get_segments()]
    assert segments == [[0.1, 0.9], [0.2, 0.4]], "an infinite interval has no bar"
    assert row_names(ax) == ["A", "B"]


def test_missing_numbers_are_not_drawn(ax):
    table = pd.DataFrame({"row": ["A"], "series": ["all"], "estimate": [np.nan], "low": [np.nan], "high": [np.nan]})
    forest_plot(table, ax, label="τ")
    ratio_plot(table[["low"]], ax, reference="ours", label="Time")
    assert ["no estimate" in ax.texts[0].get_text(), "no ratio" in ax.texts[1].get_text()] == [True, True]


def test_verdict_grid_marks_prediction_and_scale(ax):
    rows = [("01_a", "x", "small", "supported"), ("01_a", "y", "small", "inconclusive")]
    rows += [("01_a", "x", "paper", "contradicted"), ("02_b", "x", "small", "supported")]
    rows += [("02_b", "x", "paper", "not tested here")]
    judged = pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "verdict"])
    verdict_grid(judged, ax, ["small", "paper"])
    marks = {line.get_label(): line for line in ax.lines[:4]}
    np.testing.assert_array_equal(marks["supported"].get_xydata(), [[0, 2], [0, 0]])
    np.testing.assert_array_equal(marks["contradicted"].get_xydata(), [[1, 2]])
    np.testing.assert_array_equal(marks["inconclusive"].get_xydata(), [[0, 1]])
    np.testing.assert_array_equal(marks["not tested here"].get_xydata(), [[1, 0]])
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in marks.values()}) == 4, "not by colour alone"
    assert row_names(ax) == ["x  1", "y  1", "x  2"]
    (between,) = ax.lines[4:]
    assert between.get_ydata()[0] == 0.5
