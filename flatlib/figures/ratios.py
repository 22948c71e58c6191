"""Ratios to a reference, one row per case: how many times longer, larger or dearer the others are."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import CATEGORY, GREY, INNER_MARKERS

MARKERS = "o" + INNER_MARKERS


@placeholder_if_empty
def ratio_plot(table: pd.DataFrame, ax: Axes, *, reference: str, label: str) -> None:
    """Draw one dot for every number of the table, on a log axis; the reference is the grey line at 1.

    Args:
        table: one row per case, one column per competitor (at most as many as there are colours), ratios above 0; a
            missing number is not drawn.
        reference: name of what the ratios are to.
        label: of the axis.
    """
    rows = table.dropna(how="all").dropna(how="all", axis=1)
    if rows.empty:
        raise EmptyPlot("nothing to draw: the table has no ratio")
    heights = np.arange(len(rows))[::-1]
    ax.axvline(1, color=GREY, linewidth=1.0)
    for name, color, marker in zip(rows, CATEGORY, MARKERS, strict=False):
        ax.plot(rows[name], heights, marker, color=color, label=name)
    ax.set_xscale("log")
    low, high = np.nanmin(rows.to_numpy()), np.nanmax(rows.to_numpy())
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low / 2 <= tick <= high * 2]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks(heights, list(rows.index))
    ax.set_xlabel(f"{label} ({reference} = 1)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
