"""Settings of many experiments in one picture: how much sharper each is than the rest of its own, and how much better.

Two of the four quadrants are what "flatter is better" allows: flatter and better, sharper and worse.
"""

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import finite_rows
from flatlib.figures.labels import key_above
from flatlib.figures.nothing import placeholder_if_empty
from flatlib.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, Series

COLORS = (VERMILLION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
MARKERS = "os^vD<>X"
ROOM = 1.12  # half-width of the axes, in units of the farthest point
CORNERS = {(-1, 1): "flatter, better", (1, -1): "sharper, worse", (-1, -1): "flatter, worse", (1, 1): "sharper, better"}


@placeholder_if_empty
def departures(table: pd.DataFrame, ax: Axes, x: str = "lambda_max", y: str = "test_accuracy") -> None:
    """Draw one mark per setting, in a colour and a shape for what its experiment turns, over four quadrants.

    Args:
        table: of `flatlib.book.overview.centred_by_experiment`.
        x: the measure in doublings.
        y: the measure in points.

    Raises:
        FlatlibError: an unknown column.
    """
    rows = finite_rows(table.assign(**{y: table[y] / 100}), x, y, "intervention")
    names = dict.fromkeys(rows["intervention"])
    looks = {name: Series(*look, name) for name, look in zip(names, cycle(zip(COLORS, MARKERS, strict=True)))}
    reach_x, reach_y = (ROOM * rows[name].abs().max() for name in (x, y))
    ax.set(xlim=(-reach_x, reach_x), ylim=(-reach_y, reach_y))
    for sign in (-1, 1):
        ax.fill_between([0, sign * reach_x], 0, -sign * reach_y, color=GREEN, alpha=0.1, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    for name, look in looks.items():
        of_name = rows[rows["intervention"] == name]
        ax.plot(of_name[x], of_name[y], look.marker, color=look.color, ms=4.5, alpha=0.75)
    for (right, up), text in CORNERS.items():
        place = {"ha": "right" if right > 0 else "left", "va": "top" if up > 0 else "bottom"}
        ax.annotate(text, (0.5 + right * 0.49, 0.5 + up * 0.49), xycoords="axes fraction", color=GREY, **place)
    ax.set(xlabel="Sharpness against the experiment's mean (doublings)", ylabel="Test accuracy against it (points)")
    key_above(ax, looks.values(), linestyle="none")
