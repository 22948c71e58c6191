"""One measure against another, one point per run (the kind of Kaur et al. 2022, figure 2)."""

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import drawable_runs, label_axes
from flatlib.figures.labels import key_above
from flatlib.figures.nothing import placeholder_if_empty
from flatlib.figures.style import series


@placeholder_if_empty
def scatter(table: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str = "batch_size") -> None:
    """Draw y against x, one point per run, coloured by `by`; capped runs are open, diverged ones not drawn.

    Clouds overlap, so their names stand in a row above the axes, not beside a point.

    Args:
        table: one row per run with columns status, x, y and `by`.

    Raises:
        FlatlibError: an unknown column.
    """
    rows = drawable_runs(table, x, y, by)
    label_axes(ax, rows, x, y)
    looks = series(rows, by)
    for value, look in looks.items():
        for name, fill in (("reached", look.color), ("capped", "none")):
            runs = rows[(rows[by] == value) & (rows["status"] == name)]
            ax.plot(runs[x], runs[y], look.marker, color=look.color, mfc=fill, ms=4.5, alpha=0.7)
    key_above(ax, looks.values(), linestyle="none")
