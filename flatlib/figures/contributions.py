"""A sum in each row: bars that add up to a total."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.labels import ABOVE
from flatlib.figures.style import BLACK, CATEGORY, GREY, INK
from flatlib.stats import require_columns

HATCHES = ("", "////", "....", "xx")  # double the colours
HEIGHT = 0.55  # of a bar, in a row of height 1


@placeholder_if_empty
def contributions(table: pd.DataFrame, ax: Axes, *, total: str, label: str, other: str = "") -> None:
    """Draw the parts of each row as bars laid end to end, and their sum as a dot with its interval.

    Positive parts are laid to the right of zero and negative ones to the left, so that parts which cancel are seen.

    Args:
        table: Columns row, part, estimate, low and high. Rows keep their order, the first at the top; so do parts.
        total: The part that is the sum of the others.
        label: Label of the x axis.
        other: A part that is no summand, drawn as a hollow diamond: the total under another condition.
    """
    require_columns(table, ["row", "part", "estimate", "low", "high"])
    if table.empty:
        raise EmptyPlot("nothing to draw: there is no sum")
    names = list(dict.fromkeys(table["row"]))
    heights = pd.Series(np.arange(len(names))[::-1], index=names)
    values = table.pivot_table(index="row", columns="part", values="estimate", sort=False).reindex(names)
    ends = {sign: pd.Series(0.0, index=names) for sign in (-1, 1)}
    parts = [name for name in dict.fromkeys(table["part"]) if name not in (total, other)]
    ax.axvline(0, color=GREY, linewidth=1.0)
    for part, color, hatch in zip(parts, CATEGORY, HATCHES, strict=False):
        size = values[part].fillna(0.0)
        left = ends[-1].where(size < 0, ends[1])
        look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        ax.barh(heights, size, HEIGHT, left, label=part, **look)
        for sign, end in ends.items():
            ends[sign] = end + size.where(size * sign > 0, 0.0)
    sums = table[table["part"] == total]
    error = [sums["estimate"] - sums["low"], sums["high"] - sums["estimate"]]
    places = heights[sums["row"]]
    ax.errorbar(sums["estimate"], places, xerr=np.array(error), fmt="o", color=BLACK, markersize=4, label=total)
    others = table[table["part"] == other]
    if len(others):
        ax.plot(others["estimate"], heights[others["row"]], "D", mfc="white", mec=INK, markersize=4.5, label=other)
    ax.set_yticks(heights, names)
    ax.set(ylim=(-0.6, len(names) - 0.4), xlabel=label)
    ax.legend(ncols=2, labelspacing=0.3, **ABOVE)
