"""Means with intervals in rows: for settings that have names and no order, such as optimizers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import axis_of, drawable_runs
from flatlib.figures.labels import key_above
from flatlib.figures.nothing import says_why
from flatlib.figures.style import series
from flatlib.stats import bootstrap_mean


@says_why
def mean_rows(table: pd.DataFrame, x: str, ax: Axes, *, row: str, by: str) -> None:
    """Draw the mean of x over seeds with its 95 % bootstrap interval, one row per value of `row`, one mark per value of
    `by`; the seeds are faint dots. Diverged runs are not drawn.

    Args:
        table: one row per run with columns x, seed, status, `row` and `by`.
        row, by: columns of names; rows stand in the order in which their names come in the table.

    Raises:
        FlatlibError: a missing column.
    """
    rows = drawable_runs(table, x, x, row, by, "seed")
    names = list(dict.fromkeys(rows[row]))
    looks = series(rows, by)
    for shift, (value, look) in zip(np.linspace(0.15, -0.15, len(looks)), looks.items(), strict=True):
        for height, name in zip(range(len(names))[::-1], names, strict=True):
            values = rows.loc[(rows[row] == name) & (rows[by] == value), x]
            if values.empty:
                continue
            mean = bootstrap_mean(values)
            ax.plot(values, np.full(len(values), height + shift), ".", color=look.color, alpha=0.35)
            reach = [[mean.estimate - mean.low], [mean.high - mean.estimate]] if mean.n > 1 else None
            ax.errorbar(mean.estimate, height + shift, xerr=reach, color=look.color, fmt=look.marker)
    ax.set_yticks(range(len(names))[::-1], names)
    ax.set_xlabel(axis_of(x).label)
    if axis_of(x).scale == "log" and (rows[x] > 0).all():
        ax.set_xscale("log")
    key_above(ax, looks.values(), linestyle="none")
