"""Figures with one row per case: ratios to a reference, estimates with their intervals."""

import numpy as np
import pandas as pd
import pytest

from flatlib.figures import forest_plot, ratio_plot, verdict_grid

pytestmark = pytest.mark.usefixtures("style")


def test_ratios_are_drawn_in_rows_beside_their_reference(ax):
    table = pd.DataFrame({"A": [2.0, np.nan], "B": [4.0, 8.0], "C": [np.nan, np.nan]}, index=["one", "two"])
    ratio_plot(table, ax, reference="ours", label="Time")
    reference, *dots = ax.lines
    assert list(reference.get_xdata()) == [1, 1]
    assert [line.get_label() for line in dots] == ["A", "B"]
    np.testing.assert_array_equal(dots[1].get_xdata(), [4.0, 8.0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
    assert dots[0].get_ydata()[0] > dots[0].get_ydata()[1]
    assert ax.get_xlabel() == "Time (ours = 1)"


def test_no_ratio_is_said_not_drawn(ax):
    ratio_plot(pd.DataFrame({"A": [np.nan]}, index=["one"]), ax, reference="ours", label="Time")
    assert "no ratio" in ax.texts[0].get_text()


def test_intervals_are_drawn_in_rows_one_mark_below_the_other(ax):
    rows = [("A", "all", 0.5, 0.1, 0.9), ("B", "all", -0.2, -np.inf, np.inf), ("A", "some", 0.3, 0.2, 0.4)]
    table = pd.DataFrame(rows, columns=["row", "series", "estimate", "low", "high"])
    forest_plot(table, ax, label="τ")
    zero, first, second = ax.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert [line.get_label() for line in (first, second)] == ["all", "some"]
    assert first.get_xdata().tolist() == [0.5, -0.2]
    assert first.get_ydata()[0] > second.get_ydata()[0] > first.get_ydata()[1]
    segments = [segment[:, 0].tolist() for bars in ax.collections for segment in bars.get_segments()]
    assert segments == [[0.1, 0.9], [0.2, 0.4]], "an interval without end has no bar"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["A", "B"]


def test_no_estimate_is_said_not_drawn(ax):
    table = pd.DataFrame({"row": ["A"], "series": ["all"], "estimate": [np.nan], "low": [np.nan], "high": [np.nan]})
    forest_plot(table, ax, label="τ")
    assert "no estimate" in ax.texts[0].get_text()


def test_verdicts_are_marks_in_a_grid_of_predictions_and_scales(ax):
    rows = [("01_a", "x", "small", "supported"), ("01_a", "y", "small", "inconclusive")]
    rows += [("01_a", "x", "paper", "contradicted"), ("02_b", "x", "small", "supported")]
    judged = pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "verdict"])
    verdict_grid(judged, ax, ["small", "paper"])
    marks = {line.get_label(): line for line in ax.lines[:3]}
    np.testing.assert_array_equal(marks["supported"].get_xydata(), [[0, 2], [0, 0]])
    np.testing.assert_array_equal(marks["contradicted"].get_xydata(), [[1, 2]])
    np.testing.assert_array_equal(marks["inconclusive"].get_xydata(), [[0, 1]])
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in marks.values()}) == 3, "not by colour alone"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["x  1", "y  1", "x  2"]
    (between,) = ax.lines[3:]
    assert between.get_ydata()[0] == 0.5


def test_no_verdict_is_said_not_drawn(ax):
    verdict_grid(pd.DataFrame(columns=["chapter", "prediction", "scale", "verdict"]), ax, [])
    assert "no verdict" in ax.texts[0].get_text()
