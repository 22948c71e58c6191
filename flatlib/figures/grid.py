"""Verdicts on all predictions at all scales, as rows of marks under the headings of their chapters."""

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import GREY, INK, TWO_COLUMNS
from flatlib.figures.verdicts import VERDICTS
from flatlib.stats import require_columns

ROW = 0.155  # inches; all heights below are in rows
HEAD, HEADING, LINE = 6.0, 1.5, 0.75  # the key and the scales, a chapter, each further line of a name
SCALE, COLUMN = 1.0, 20.5  # width of a scale and of a whole column, in rows
LETTERS = 38  # of a name in one line


def verdict_columns(judged: pd.DataFrame) -> list[pd.DataFrame]:
    """Split the ``judged`` table of :func:`verdict_grid` into two columns of whole chapters, of like height."""
    chapters = list(dict.fromkeys(judged["chapter"]))
    first = [judged["chapter"].isin(chapters[:cut]) for cut in range(1, len(chapters))]
    splits = [[judged[rows], judged[~rows]] for rows in first]
    return min(splits, key=lambda parts: max(_places(part)[2] for part in parts), default=[judged])


def verdict_grid_size(columns: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Return width and height in inches of a figure with a :func:`verdict_grid` for each of one or two columns."""
    return TWO_COLUMNS * len(columns) / 2, ROW * (HEAD + max(_places(part)[2] for part in columns))


@placeholder_if_empty
def verdict_grid(judged: pd.DataFrame, ax: Axes, scales: Sequence[str], *, key: bool = True) -> None:
    """Draw a mark for the verdict on each prediction at each scale; a place without runs stays empty.

    Args:
        judged: Columns chapter (the heading of its predictions), prediction, scale and verdict. Rows keep the order in
            which chapters and predictions appear.
        scales: The places of the marks, from left to right.
        key: Whether the marks are explained above.
    """
    require_columns(judged, ["chapter", "prediction", "scale", "verdict"])
    if judged.empty:
        raise EmptyPlot("nothing to draw: there is no verdict")
    headings, rows, height = _places(judged)
    ax.set_axis_off()
    ax.set(xlim=(0, COLUMN), ylim=(height, -HEAD))
    text: dict[str, Any] = {"color": INK, "va": "center_baseline", "fontsize": 8}
    for i, scale in enumerate(scales):
        ax.text(SCALE * (i + 0.3), -0.2, scale, rotation=45, rotation_mode="anchor", color=INK, fontsize=8)
    for heading, y in headings.items():
        ax.text(0, y, heading, weight="bold", **text | {"fontsize": 8.5})
    for (_, name), y in rows.items():
        ax.hlines(y, 0, SCALE * len(scales), GREY, linewidth=0.3, zorder=1)
        ax.text(SCALE * (len(scales) + 0.5), y, _wrapped(name), linespacing=1.0, **text)
    for verdict, look in VERDICTS.items():
        found = judged[judged["verdict"] == verdict]
        x = [SCALE * (scales.index(scale) + 0.5) for scale in found["scale"]]
        heights = [rows[row] for row in zip(found["chapter"], found["prediction"], strict=True)]
        ax.plot(x, heights, linestyle="none", markersize=5, label=verdict, **look)
    if key:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "borderpad": 0, "fontsize": 8}
        ax.legend(ncols=2, handletextpad=0.2, columnspacing=1.0, borderaxespad=0, labelspacing=0.3, **place)


def _wrapped(name: str) -> str:
    """Return a name in lines that fit beside the marks."""
    return textwrap.fill(name, LETTERS)


def _places(judged: pd.DataFrame) -> tuple[dict[str, float], dict[tuple[str, str], float], float]:
    """Return where headings and rows are, from the first heading down, and where the last row ends."""
    headings, rows, y = dict[str, float](), dict[tuple[str, str], float](), 0.0
    for chapter, own in judged.groupby("chapter", sort=False):
        headings[str(chapter)], y = y + 0.6 * HEADING, y + HEADING
        for name in dict.fromkeys(own["prediction"]):
            tall = 1 + LINE * _wrapped(name).count("\n")
            rows[str(chapter), name], y = y + tall / 2, y + tall
    return headings, rows, y
