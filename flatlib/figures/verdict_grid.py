"""Verdicts on predictions in a grid: one row per prediction, one column per scale."""

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import GREEN, GREY, PURPLE

MARKS: dict[str, dict[str, Any]] = {  # distinguished not by colour alone
    "supported": {"marker": "o", "color": GREEN},
    "contradicted": {"marker": "X", "color": PURPLE},
    "inconclusive": {"marker": "o", "color": GREY, "markerfacecolor": "none"},
}


@placeholder_if_empty
def verdict_grid(judged: pd.DataFrame, ax: Axes, scales: Sequence[str]) -> None:
    """Draw a mark for the verdict on each prediction at each scale; a place without a test stays empty.

    Args:
        judged: Columns chapter (``01_lr_batch``), prediction, scale and verdict. Rows keep the order in which the
            predictions appear, numbered by their chapter, with a line between two chapters.
        scales: The columns, from left to right.
    """
    if judged.empty:
        raise EmptyPlot("nothing to draw: there is no verdict")
    rows = list(dict.fromkeys(zip(judged["chapter"], judged["prediction"], strict=True)))
    heights = {row: len(rows) - 1 - i for i, row in enumerate(rows)}
    for verdict, mark in MARKS.items():
        found = judged[judged["verdict"] == verdict]
        y = [heights[row] for row in zip(found["chapter"], found["prediction"], strict=True)]
        x = [scales.index(scale) for scale in found["scale"]]
        ax.plot(x, y, linestyle="none", markersize=5, label=verdict, **mark)
    for above, below in itertools.pairwise(rows):
        if above[0] != below[0]:
            ax.axhline(heights[below] + 0.5, color=GREY, linewidth=0.4)
    ax.set_yticks(list(heights.values()), [f"{name}  {int(chapter.partition('_')[0])}" for chapter, name in rows])
    ax.set_xticks(range(len(scales)), scales, rotation=45, ha="left", rotation_mode="anchor")
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.set(xlim=(-0.5, len(scales) - 0.5), ylim=(-0.6, len(rows) - 0.4))
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.0), ncols=3, handletextpad=0.2, columnspacing=1.0)
