"""Verdicts as pictures: regions and intervals, dots, and the grid over scales."""

import numpy as np
import pandas as pd
import pytest

from flatlib.figures import verdict_dots, verdict_grid, verdict_intervals, verdict_size
from flatlib.figures.verdicts import IN_A_ROW, region

COLUMNS = ["prediction", "unit", "threshold", "scale", "estimate", "low", "high", "verdict"]
JUDGED = pd.DataFrame(
    [
        ("x", "points", "> 0.5", "small", 2.0, 1.0, 3.0, "supported"),
        ("x", "points", "> 0.5", "paper", np.nan, np.nan, np.nan, "not tested here"),
        ("y", "decades", "in -1 .. 1", "small", 4.0, -np.inf, np.inf, "inconclusive"),
    ],
    columns=COLUMNS,
)


def row_names(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize(
    ("text", "ends"),
    [("> -0.5", (-0.5, np.inf)), ("< 2", (-np.inf, 2.0)), ("in 0.7 .. 1.5", (0.7, 1.5)), ("< 1e-05", (-np.inf, 1e-5))],
)
def test_a_region_is_read_from_its_text(text, ends):
    assert region(text) == ends


def test_intervals_are_drawn_on_the_region(ax):
    verdict_intervals(JUDGED, ax)
    first, second = ax.child_axes
    assert [panel.get_title(loc="left") for panel in (first, second)] == ["x", "y"]
    assert [text.get_text() for text in first.texts] == ["small", "paper", "points"]
    assert first.collections[0].get_segments()[0][:, 0].tolist() == [1.0, 3.0]
    left, right = first.get_xlim()
    assert left < 0.5 < 3.0 < right, "the threshold and the interval are in view"
    (shaded,) = first.patches
    assert shaded.get_x() == 0.5
    assert shaded.get_x() + shaded.get_width() == right
    (endless,) = second.collections
    assert endless.get_segments()[0][:, 0].tolist() == list(second.get_xlim())


def test_a_figure_has_room_for_each_mark():
    width, height = verdict_size(JUDGED)
    assert verdict_size(JUDGED[:2]) < (width, height)


def test_dots_count_predictions(ax):
    judged = pd.DataFrame({"verdict": ["supported"] * (IN_A_ROW + 1) + ["contradicted"], "about": ["a"] * 31 + ["b"]})
    verdict_dots(judged, ax, by="about")
    assert [text.get_text() for text in ax.texts] == [f"a: {IN_A_ROW + 1} of {IN_A_ROW + 1} hold", "b: 0 of 1 hold"]
    assert [line.get_marker() for line in ax.lines] == ["o"] * (IN_A_ROW + 1) + ["X"]
    heights = [line.get_ydata()[0] for line in ax.lines]
    assert heights[0] == heights[IN_A_ROW - 1] > heights[IN_A_ROW] > heights[-1], "a long row is broken"


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
