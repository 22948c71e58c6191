"""Means with intervals in rows: for settings that have names and no order, such as optimizers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import axis_of, drawable_runs, format_log_ticks
from flatlib.figures.labels import key_above
from flatlib.figures.nothing import placeholder_if_empty
from flatlib.figures.style import series
from flatlib.stats import bootstrap_mean


@placeholder_if_empty
def dot_plot(table: pd.DataFrame, x: str, ax: Axes, *, row: str, by: str) -> None:
    """Draw the mean of x over seeds with its 95 % bootstrap interval, one row per value of `row`, one mark per value of
    `by`; the seeds are faint dots. Capped runs are open, diverged ones not drawn; a group that has any of them has no
    mean, as it would be one over the seeds that happened to make it.

    Args:
        table: one row per run with columns x, seed, status, `row` and `by`.
        row, by: columns of names; rows stand in the order in which their names come in the table.

    Raises:
        FlatlibError: a missing column.
    """
    rows = drawable_runs(table, x, x, row, by, "seed")
    complete = (table["status"] == "reached").groupby([table[row], table[by]]).transform("all")
    names = list(dict.fromkeys(rows[row]))
    looks = series(rows, by)
    for shift, (value, look) in zip(np.linspace(0.15, -0.15, len(looks)), looks.items(), strict=True):
        for height, name in zip(range(len(names))[::-1], names, strict=True):
            here = rows[(rows[row] == name) & (rows[by] == value)]
            for status, dots in here.groupby("status")[x]:
                fill = look.color if status == "reached" else "none"
                ax.plot(dots, np.full(len(dots), height + shift), ".", color=look.color, mfc=fill, alpha=0.35)
            if here.empty or not complete[here.index].all():
                continue
            mean = bootstrap_mean(here[x])
            reach = [[mean.estimate - mean.low], [mean.high - mean.estimate]] if mean.n > 1 else None
            ax.errorbar(mean.estimate, height + shift, xerr=reach, color=look.color, fmt=look.marker)
    ax.set_yticks(range(len(names))[::-1], names)
    ax.set_xlabel(axis_of(x).label)
    if axis_of(x).scale == "log" and (rows[x] > 0).all():
        ax.set_xscale("log")
        format_log_ticks(ax.xaxis, rows[x].max() / rows[x].min())
    key_above(ax, looks.values(), linestyle="none")
