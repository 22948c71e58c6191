"""Estimates with their intervals, one row per case and one mark per competitor."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.ratios import MARKERS
from flatlib.figures.style import CATEGORY, GREY

ROOM = 0.25  # between the marks of a row, whose height is 1


@placeholder_if_empty
def forest_plot(table: pd.DataFrame, ax: Axes, *, label: str) -> None:
    """Draw each estimate as a mark on its interval; zero is the grey line, and the first row is at the top.

    Args:
        table: columns row and series (names; at most as many series as there are colours), estimate, low and high. Rows
            and series keep the order in which they appear. An interval that is not finite is not drawn.
        label: of the axis.
    """
    known = table[np.isfinite(table["estimate"])]
    if known.empty:
        raise EmptyPlot("nothing to draw: the table has no estimate")
    rows, names = (list(dict.fromkeys(known[name])) for name in ("row", "series"))
    heights = np.arange(len(rows))[::-1]
    ax.axvline(0, color=GREY, linewidth=1.0)
    for i, (name, color, marker) in enumerate(zip(names, CATEGORY, MARKERS, strict=False)):
        mine = known[known["series"] == name]
        height = mine["row"].map(dict(zip(rows, heights, strict=True))) + ROOM * ((len(names) - 1) / 2 - i)
        spread = mine[np.isfinite(mine["low"]) & np.isfinite(mine["high"])]
        ax.hlines(height[spread.index], spread["low"], spread["high"], color=color, linewidth=1.2)
        ax.plot(mine["estimate"], height, marker, color=color, label=name)
    ax.set_yticks(heights, rows)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel(label)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0, labelspacing=0.3)
