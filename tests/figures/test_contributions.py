"""Bars that add up, by the data they draw."""

import pandas as pd
import pytest

from flatlib.figures import contributions

pytestmark = pytest.mark.usefixtures("style")


def test_bars_are_laid_end_to_end(ax):
    """Two parts to the right, one to the left, and a part that the second row lacks."""
    rows = [("A", "sum", 1.0), ("A", "p", 2.0), ("A", "q", 1.0), ("A", "r", -2.0), ("B", "sum", -1.0), ("B", "p", -1.0)]
    rows.append(("B", "elsewhere", 3.0))
    table = pd.DataFrame(rows, columns=["row", "part", "estimate"]).assign(low=lambda t: t["estimate"] - 1, high=4.0)
    contributions(table, ax, total="sum", label="x", other="elsewhere")
    bars = {bar.get_label(): [(patch.get_x(), patch.get_width()) for patch in bar] for bar in ax.containers[:3]}
    assert bars == {"p": [(0, 2), (0, -1)], "q": [(2, 1), (0, 0)], "r": [(0, -2), (0, 0)]}
    assert len({patch.get_hatch() for bar in ax.containers[:3] for patch in bar}) == 3, "not by colour alone"
    (dots,) = ax.containers[3:]
    assert dots.lines[0].get_xydata().tolist() == [[1, 1], [-1, 0]]
    assert [segment[:, 0].tolist() for segment in dots.lines[2][0].get_segments()] == [[0, 4], [-2, 4]]
    (diamond,) = [line for line in ax.lines if line.get_label() == "elsewhere"]
    assert diamond.get_xydata().tolist() == [[3, 0]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["A", "B"]


def test_nothing_to_add_is_said(ax):
    empty = pd.DataFrame(columns=["row", "part", "estimate", "low", "high"])
    contributions(empty, ax, total="sum", label="x")
    assert "no sum" in ax.texts[0].get_text()
