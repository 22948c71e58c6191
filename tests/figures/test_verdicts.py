"""Verdicts as pictures: regions and intervals, and dots."""

import numpy as np
import pandas as pd
import pytest

from flatlib.figures import verdict_dots, verdict_intervals, verdict_size
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
