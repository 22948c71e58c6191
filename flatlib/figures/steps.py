"""Steps of an optimizer through a landscape: arrows from point to point, on top of its contours."""

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import require_columns
from flatlib.figures.labels import CARD
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import series


@placeholder_if_empty
def landscape_steps(table: pd.DataFrame, ax: Axes) -> None:
    """Draw each path as arrows, in a colour of its own, named beside its last point; an empty name is not written.
    Points outside the axes, whose limits stay as they are, are not drawn; call it after `landscape_contours`.

    Args:
        table: one row per point with columns path (a name), step_1, step_2, each path in its order.

    Raises:
        FlatlibError: a missing column.
    """
    require_columns(table, "path", "step_1", "step_2")
    rows = table.dropna(subset=["step_1", "step_2"])
    if rows.empty:
        raise EmptyPlot("nothing to draw: no path has a point")
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    for name, look in series(rows, "path").items():
        points = rows.loc[rows["path"] == name, ["step_1", "step_2"]].to_numpy()
        inside = [left <= x <= right and bottom <= y <= top for x, y in points]
        for start, end, within in zip(points, points[1:], inside[1:], strict=False):
            if within:
                style = {"arrowstyle": "-|>", "color": look.color, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", end, start, arrowprops=style)
        if look.label and any(inside):
            last = points[inside][-1]
            ax.annotate(look.label, last, (6, 4), textcoords="offset points", color=look.ink, bbox=CARD)
    ax.set(xlim=(left, right), ylim=(bottom, top))
