"""Scatter plots: one measure against another per run; settings in quadrants around their experiment's mean."""

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import drawable_runs, drop_infinite, label_axes, placeholder_if_empty
from flatlib.figures.labels import key_above
from flatlib.figures.style import BLACK, BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILLION, Series, series
from flatlib.stats import require_columns

COLORS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)  # of interventions
SHAPES = "os^vD<>X"  # of interventions, as many as there are colours
MARGIN = 1.12  # half-width of the axes, in units of the farthest point
CORNERS = {(-1, 1): "flatter, better", (1, -1): "sharper, worse", (-1, -1): "flatter, worse", (1, 1): "sharper, better"}


@placeholder_if_empty
def scatter(table: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str = "batch_size") -> None:
    """Draw y against x, one point per run, coloured by ``by``; capped runs are open, diverged ones not drawn.

    Clouds overlap, so their names stand in a row above the axes. The kind of Kaur et al. 2022, figure 2.

    Args:
        table: One row per run with columns status, x, y and ``by``.
        x: A measure.
        y: A measure.
        by: The column that distinguishes the clouds.
    """
    rows = drawable_runs(table, x, y, by)
    label_axes(ax, rows, x, y)
    looks = series(rows, by)
    for value, look in looks.items():
        for name, fill in (("reached", look.faint), ("capped", "none")):
            runs = rows[(rows[by] == value) & (rows["status"] == name)]
            ax.plot(runs[x], runs[y], look.marker, color=look.color, mfc=fill, ms=4.5)
    key_above(ax, looks.values(), linestyle="none")


@placeholder_if_empty
def quadrant_plot(table: pd.DataFrame, ax: Axes) -> None:
    """Draw each setting's deviation from the mean of its experiment, in a colour and a shape per intervention.

    The two shaded quadrants are those that "flatter is better" allows: flatter and better, sharper and worse.

    Args:
        table: One row per setting with columns intervention, lambda_max (in doublings), test_accuracy (in points).
    """
    x, y = "lambda_max", "test_accuracy"
    require_columns(table, ["intervention"])
    rows = drop_infinite(table, x, y)
    names = dict.fromkeys(rows["intervention"])
    looks = {name: Series(*look, name) for name, look in zip(names, cycle(zip(COLORS, SHAPES, strict=True)))}
    reach_x, reach_y = (MARGIN * rows[name].abs().max() for name in (x, y))
    ax.set(xlim=(-reach_x, reach_x), ylim=(-reach_y, reach_y))
    for sign in (-1, 1):
        ax.fill_between([0, sign * reach_x], 0, -sign * reach_y, color=GREEN, alpha=0.1, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    for name, look in looks.items():
        of_name = rows[rows["intervention"] == name]
        ax.plot(of_name[x], of_name[y], look.marker, color=look.color, mfc=look.faint, ms=4.5)
    for (right, up), text in CORNERS.items():
        place: dict[str, Any] = {"ha": "right" if right > 0 else "left", "va": "top" if up > 0 else "bottom"}
        ax.annotate(text, (0.5 + right * 0.49, 0.5 + up * 0.49), xycoords="axes fraction", color=INK, **place)
    ax.set(xlabel="Sharpness against the experiment's mean (doublings)", ylabel="Test accuracy against it (points)")
    key_above(ax, looks.values(), linestyle="none")
