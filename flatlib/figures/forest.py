"""A row per name: means and their intervals, estimates with given intervals, or ratios."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import EmptyPlot, axis_of, drawable_runs, placeholder_if_empty, set_scale
from flatlib.figures.curves import error_bar
from flatlib.figures.labels import ABOVE, key_above
from flatlib.figures.style import CATEGORY, GREY, MARKERS, series, series_label
from flatlib.figures.ticks import set_ticks
from flatlib.stats import bootstrap_mean

SPACING = 0.25  # between the marks of a row, whose height is 1
LEFTWARD = ABOVE | {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}  # above axes narrower than its names
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # of ratios


@placeholder_if_empty
def dot_plot(table: pd.DataFrame, x: str, ax: Axes, *, row: str, by: str) -> None:
    """Draw means of x over seeds with 95 % bootstrap intervals: a row per value of ``row``, a mark per value of ``by``.

    The seeds are faint dots. Capped runs are open, diverged ones not drawn; a group with any of them has no mean, as it
    would be one over the seeds that happened to succeed.

    Args:
        table: One row per run with columns x, seed, status, ``row`` and ``by``.
        x: A measure.
        row: A column of names without an order, such as optimizers; rows keep the order of the table.
        by: A column of names that distinguishes the marks of a row.
    """
    rows = drawable_runs(table, x, x, row, by, "seed")
    complete = (table["status"] == "reached").groupby([table[row], table[by]]).transform("all")
    heights = row_heights(rows[row])
    looks = series(rows, by)
    for name, height in heights.items():
        of_row = rows[rows[row] == name]
        present = [value for value in looks if (of_row[by] == value).any()]
        for shift, value in zip(_shifts(len(present)), present, strict=True):
            look, here = looks[value], of_row[of_row[by] == value]
            for status, dots in here.groupby("status")[x]:
                fill = look.faint if status == "reached" else "none"
                ax.plot(dots, np.full(len(dots), height + shift), ".", color=look.faint, mfc=fill, ms=4)
            if complete[here.index].all():
                mean = bootstrap_mean(here[x])
                ax.errorbar(mean.estimate, height + shift, xerr=error_bar(mean), color=look.color, fmt=look.marker)
    ax.set_yticks(list(heights.values()), [series_label(row, name) for name in heights])
    ax.set(xlabel=axis_of(x).label, ylim=(-0.6, len(heights) - 0.4))
    set_scale(ax.xaxis, x, rows[x])
    if rows.groupby(row)[by].nunique().max() > 1:  # otherwise the row's own name says it
        key_above(ax, looks.values(), linestyle="none")


@placeholder_if_empty
def forest_plot(table: pd.DataFrame, ax: Axes, *, label: str) -> None:
    """Draw each estimate as a mark on its interval; zero is the grey line, and the first row is at the top.

    Args:
        table: Columns row and series (names; at most as many series as there are colours), estimate, low and high. Rows
            and series keep the order in which they appear. An interval that is not finite is not drawn.
        label: Label of the x axis.
    """
    known = table[np.isfinite(table["estimate"])]
    if known.empty:
        raise EmptyPlot("nothing to draw: the table has no estimate")
    heights, names = row_heights(known["row"]), list(dict.fromkeys(known["series"]))
    ax.axvline(0, color=GREY, linewidth=1.0)
    for i, (name, color, marker) in enumerate(zip(names, CATEGORY, MARKERS, strict=False)):
        of_name = known[known["series"] == name]
        height = of_name["row"].map(heights) + SPACING * ((len(names) - 1) / 2 - i)
        bars = of_name[np.isfinite(of_name["low"]) & np.isfinite(of_name["high"])]
        ax.hlines(height[bars.index], bars["low"], bars["high"], color=color, linewidth=1.2)
        ax.plot(of_name["estimate"], height, marker, color=color, label=name)
    ax.set_yticks(list(heights.values()), list(heights))
    ax.set(ylim=(-0.6, len(heights) - 0.4), xlabel=label)
    ax.legend(labelspacing=0.3, **LEFTWARD)


@placeholder_if_empty
def ratio_plot(table: pd.DataFrame, ax: Axes, *, reference: str, label: str) -> None:
    """Draw one dot for every number of the table, on a log axis; the reference is the grey line at 1.

    Args:
        table: One row per case, one column per competitor (at most as many as there are colours), ratios above 0; a
            missing number is not drawn.
        reference: Name of the denominator.
        label: Label of the x axis.
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
    ticks = [tick for tick in TICKS if low / 2 <= tick <= high * 2]
    set_ticks(ax, ticks)
    ax.set_yticks(heights, list(rows.index))
    ax.set_xlabel(f"{label} ({reference} = 1)")
    ax.legend(ncols=3, handletextpad=0.2, columnspacing=1.0, **LEFTWARD)


def _shifts(n: int) -> np.ndarray:
    """Return the heights of the n marks of a row above its middle."""
    return np.linspace(0.15, -0.15, n) if n > 1 else np.zeros(n)


def row_heights(names: Iterable[Any]) -> dict[Any, int]:
    """Return the height of each name's row, the first one at the top."""
    rows = list(dict.fromkeys(names))
    return {name: len(rows) - 1 - i for i, name in enumerate(rows)}
