"""Curves against a setting or along training: seeds or runs faint, their mean bold, its interval as a band or bars."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from flatlib.errors import FlatlibError
from flatlib.figures.axes import (
    EmptyPlot,
    axis_of,
    drawable_runs,
    finite_rows,
    label_axes,
    placeholder_if_empty,
)
from flatlib.figures.labels import End, key_above, label_ends, label_theory
from flatlib.figures.style import DASHED, EDGE, GREY, Series, series
from flatlib.figures.ticks import set_ticks
from flatlib.stats import Interval, bootstrap_mean, seed_slopes


@placeholder_if_empty
def mean_curves(
    table: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str = "batch_size", theory: str | None = None
) -> None:
    """Draw y against the setting x: every seed faint, the mean bold, a 95 % bootstrap band over seeds.

    A value of x has a mean and a band only if every seed reached the stop rule there, as in the verdicts
    (``flatlib.claims.complete_cells``). Capped runs are open markers; diverged runs are not drawn. A band
    needs two seeds. The kind of Kaur et al. 2022, figures 1 and 6.

    Args:
        table: One row per run with columns x, seed, status, y and ``by``.
        x: A setting, such as learning_rate. A zero on a log axis (no SAM, no decay) stands left of a short linear part.
        y: A measure.
        by: The column that distinguishes the curves.
        theory: "2/eta" draws the edge of stability, dashed and grey (needs x="learning_rate").
    """
    rows = drawable_runs(table, x, y, by, "seed")
    label_axes(ax, rows, x, y)
    complete = (table["status"] == "reached").groupby([table[by], table[x]]).transform("all").loc[rows.index]
    ends = []
    for value, look in series(rows, by).items():
        of_value = rows[rows[by] == value]
        reached = of_value[of_value["status"] == "reached"].sort_values(x)
        for _, of_seed in reached.groupby("seed"):
            ax.plot(of_seed[x], of_seed[y], color=look.faint, linewidth=0.5, label="_seed")
        capped = of_value[of_value["status"] == "capped"]
        ax.plot(capped[x], capped[y], look.marker, color=look.color, mfc="none", ms=4, lw=0, label="_capped")
        _mean_with_band(ax, of_value[complete[of_value.index]].groupby(x)[y], look)
        last = of_value[x].max()
        ends.append(End(last, of_value.loc[of_value[x] == last, y].mean(), look))
    if theory is not None:
        _require_theory(theory, "x", x)
        eta = np.unique(rows[x])
        ax.plot(eta, 2 / eta, **DASHED)
        label_theory(ax, eta[0], 2 / eta[0], EDGE)
    label_ends(ax, ends if len(ends) > 1 else [])  # a single line needs no name


@placeholder_if_empty
def trajectories(
    long: pd.DataFrame, y: str, ax: Axes, *, by: str = "learning_rate", x: str = "update", theory: str | None = None
) -> None:
    """Draw y along training: every run faint, the mean over runs bold.

    The mean covers the updates at which every run of its group has a value, so that it never jumps because a run
    has stopped; the runs themselves go on to their end. The kind of Kaur et al. 2022, figure 5.

    Args:
        long: One row per run and update with columns run_id, x, y, ``by``.
        y: A measure.
        by: The column that distinguishes the curves; numbers are coloured by viridis.
        x: The column of the updates or of another time.
        theory: "2/eta" draws the edge of stability of each learning rate, dashed and grey, named at its right end
            in the curve's colour (needs by="learning_rate").
    """
    rows = finite_rows(long, x, y, by, "run_id")
    label_axes(ax, rows, x, y)
    looks = series(rows, by)
    for value, look in looks.items():
        runs = rows[rows[by] == value].pivot_table(index=x, columns="run_id", values=y)
        for _, run in runs.items():
            ax.plot(run.dropna(), color=look.faint, linewidth=0.5, label="_seed")
        mean = runs.dropna().mean(axis=1)
        if not mean.empty:
            ax.plot(mean.index, mean, color=look.color, marker=look.marker, markevery=[-1], label="_mean")
    if theory is None:
        key_above(ax, looks.values() if len(looks) > 1 else [], linestyle="-")
        return
    _require_theory(theory, "by", by)
    for eta in looks:
        ax.axhline(2 / eta, **DASHED)
    names = {eta: f"{EDGE}, {look.label}" if len(looks) > 1 else EDGE for eta, look in looks.items()}
    label_ends(ax, [End(None, 2 / eta, look._replace(label=names[eta])) for eta, look in looks.items()])


@placeholder_if_empty
def slope_by_group(
    table: pd.DataFrame, ax: Axes, *, x: str = "lambda_max", y: str = "test_accuracy", group: str = "batch_size"
) -> None:
    """Draw, for each value of ``group``, the mean over seeds of the slope of y per decade of x, with its interval.

    Seeds are faint dots, the mean is bold with its 95 % bootstrap interval, zero is a grey line. A seed without a slope
    is excluded, and so is a group without any. Kaur et al. 2022, figure 3, condensed to one point per group.

    Args:
        table: One row per run with columns seed, x, y and ``group`` (numbers). All rows count: pass the runs that the
            verdict counts (``flatlib.claims.complete_cells``).
        x: A positive measure.
        y: A measure.
        group: The setting on the x axis.
    """
    rows = finite_rows(table, x, y, group, "seed")
    slopes = {value: seed_slopes(runs, x, y).dropna() for value, runs in rows.groupby(group)}
    slopes = {value: of_seeds for value, of_seeds in slopes.items() if len(of_seeds)}
    if not slopes:
        raise EmptyPlot(f"nothing to draw: no seed of any {group} has two runs with different {x}")
    ax.set_xscale(axis_of(group).scale)
    unit = "points " if axis_of(y).multiplier == 100 else ""  # a difference of percentages is in points
    per = f"{unit}per decade of {axis_of(x).symbol or axis_of(x).name}"
    ax.set(xlabel=axis_of(group).label, ylabel=f"{axis_of(y).name}, slope\n({per})")
    set_ticks(ax, list(slopes))
    ax.axhline(0, color=GREY, linewidth=1.0)
    means = {value: bootstrap_mean(of_seeds) for value, of_seeds in slopes.items()}
    beside = ax.transData + ScaledTranslation(-7 / 72, 0, ax.figure.dpi_scale_trans)  # the interval would hide them
    for value, look in series(rows, group).items():
        if value in slopes:
            seeds, here = slopes[value], np.full(len(slopes[value]), value)
            ax.plot(here, seeds, ".", color=look.faint, ms=4, label="_seed", transform=beside)
            ax.errorbar(value, means[value].estimate, error_bar(means[value]), color=look.color, fmt=look.marker)


def error_bar(mean: Interval) -> list[list[float]] | None:
    """Return the lengths of an interval's two sides for matplotlib's ``errorbar``; None for a single seed."""
    return [[mean.estimate - mean.low], [mean.high - mean.estimate]] if mean.n > 1 else None


def _mean_with_band(ax: Axes, groups: Any, look: Series) -> None:
    """Draw the mean of each group, and a band of intervals over those of at least two seeds."""
    intervals = {place: bootstrap_mean(values) for place, values in groups}
    band = {place: (mean.low, mean.high) for place, mean in intervals.items() if mean.n > 1}
    low, high = zip(*band.values(), strict=True) if band else ((), ())
    ax.fill_between(list(band), low, high, color=look.color, alpha=0.15, linewidth=0)
    means = [mean.estimate for mean in intervals.values()]
    ax.plot(list(intervals), means, color=look.color, marker=look.marker, label="_mean")


def _require_theory(theory: str, parameter: str, column: str) -> None:
    """Check that the theory is known and that there are learning rates to draw it for."""
    if theory != "2/eta":
        raise FlatlibError(f"unknown theory {theory!r}; known are 2/eta")
    if column != "learning_rate":
        raise FlatlibError(f"theory {theory!r} needs {parameter}='learning_rate', got {parameter}={column!r}")
