"""The loss around a network: along eigenvectors of its Hessian or other directions, and in the plane of two."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flatlib.errors import FlatlibError
from flatlib.figures.axes import COLUMNS, EmptyPlot, drop_infinite, placeholder_if_empty
from flatlib.figures.labels import CARD, End, label_ends
from flatlib.figures.style import DASHED, GREY, INK, MARKERS, Series, series, viridis
from flatlib.stats import require_columns

LOSS = COLUMNS["train_loss"].label
LEVELS = 8  # contours; more run together at 3.3 inches
LARGEST = 1e300  # matplotlib's margins around larger numbers overflow


@placeholder_if_empty
def landscape_lines(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss along eigenvectors, each named by its eigenvalue; its quadratic approximation dashed and grey.

    A curve has a gap where the loss is not finite or above 1e300.

    Args:
        table: One row per direction and step with columns direction, eigenvalue, step, loss, quadratic
            (``flatlib.sharpness.Lines.table``).
    """
    table = _without_overflow(table)
    rows = drop_infinite(table, "step", "loss", "direction", "eigenvalue", "quadratic")
    named = rows.groupby("direction")["eigenvalue"].first()
    labels = {j: rf"$\lambda_{{{j:g}}}$ = {value:.3g}" for j, value in named.items()}
    _lines(table, labels, "Step along eigenvector $t$", ax)


@placeholder_if_empty
def landscape_slices(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss along named directions, each with its curvature; its quadratic approximation dashed and grey.

    A curve has a gap where the loss is not finite or above 1e300.

    Args:
        table: One row per direction and step with columns direction (a name), curvature, step, loss, quadratic
            (``flatlib.sharpness.loss_along``).
    """
    require_columns(table, ["direction"])
    table = _without_overflow(table)
    rows = drop_infinite(table, "step", "loss", "curvature", "quadratic")
    named = rows.groupby("direction", sort=False)["curvature"].first()
    labels = {name: f"{name}\n$v^\\top H v$ = {value:.2g}" for name, value in named.items()}
    _lines(table, labels, "Step along a direction $t$", ax)


def _lines(table: pd.DataFrame, labels: dict[Any, str], xlabel: str, ax: Axes) -> None:
    """Draw one curve for each direction in ``labels``, in their order, with its parabola."""
    ends = []
    rows = table.sort_values("step", kind="stable")
    for i, (direction, label) in enumerate(labels.items()):
        line = rows[rows["direction"] == direction]
        color = INK if len(labels) == 1 else viridis(i / (len(labels) - 1))
        look = Series(color, MARKERS[i % len(MARKERS)], label)
        last = int(np.flatnonzero(line["loss"].notna())[-1])
        ax.plot(line["step"], line["loss"], color=look.color, marker=look.marker, markevery=[last])
        ax.plot(line["step"], line["quadratic"], **DASHED)
        ends.append(End(line["step"].iloc[last], line["loss"].iloc[last], look))
    ax.set(xlabel=xlabel, ylabel=LOSS)
    label_ends(ax, ends)


@placeholder_if_empty
def landscape_contours(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss in the plane of two eigenvectors as labelled contours; a cross marks the network.

    The levels are spaced evenly in the logarithm of the loss where it is positive and spans a factor of ten. Points
    where the loss is not finite or above 1e300 are grey crosses.

    Args:
        table: One row per point of a full grid with columns step_1, step_2, loss (``flatlib.sharpness.loss_in_plane``).
    """
    rows = drop_infinite(_without_overflow(table), "step_1", "step_2").drop_duplicates(["step_1", "step_2"])
    grid = rows.pivot(index="step_2", columns="step_1", values="loss")
    if grid.size != len(rows) or min(grid.shape) < 2:
        raise FlatlibError(f"contours need a full grid of step_1 and step_2, got {len(rows)} points")
    finite = drop_infinite(rows, "loss")["loss"]
    low, high = finite.min(), finite.max()
    if low == high:
        raise EmptyPlot(f"nothing to draw: the loss is {low:g} everywhere")
    logarithmic = low > 0 and high > 10 * low
    levels = np.geomspace(low, high, LEVELS + 2)[1:-1] if logarithmic else MaxNLocator(LEVELS).tick_values(low, high)
    ramp = list(viridis(np.linspace(0, 1, len(levels))))
    drawn = ax.contour(grid.columns, grid.index, grid.to_numpy(), levels=levels, colors=ramp, linewidths=1.2)
    ax.clabel(drawn, fmt="%.3g", fontsize=0.8 * float(ax.xaxis.label.get_fontsize()))
    if len(gaps := rows[rows["loss"].isna()]):
        ax.plot(gaps["step_1"], gaps["step_2"], "x", color=GREY, ms=4)
    ax.plot(0, 0, "+", color=INK, ms=7)
    ax.set_aspect("equal")
    ax.set(xlabel="Step along $v_1$", ylabel="Step along $v_2$")
    ax.annotate(LOSS, (1, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="right", color=GREY)


def _without_overflow(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with NaN for losses that are not finite or too large to be drawn."""
    losses = [name for name in ("loss", "quadratic") if name in table]
    return table.assign(**{name: table[name].where(table[name].abs() < LARGEST) for name in losses})


@placeholder_if_empty
def landscape_steps(table: pd.DataFrame, ax: Axes) -> None:
    """Draw each path of an optimizer as arrows, in a colour of its own, named at its last point (unless it is empty).

    Points outside the axes, whose limits stay as they are, are not drawn; call it after :func:`landscape_contours`.

    Args:
        table: One row per point with columns path (a name), step_1, step_2, each path in its order.
    """
    require_columns(table, ("path", "step_1", "step_2"))
    rows = table.dropna(subset=["step_1", "step_2"])
    if rows.empty:
        raise EmptyPlot("nothing to draw: no path has a point")
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    for name, look in series(rows, "path").items():
        points = rows.loc[rows["path"] == name, ["step_1", "step_2"]].to_numpy()
        inside = [left <= x <= right and bottom <= y <= top for x, y in points]
        arrow = {"arrowstyle": "-|>", "color": look.color, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
        for start, end, within in zip(points, points[1:], inside[1:], strict=False):
            if within:
                ax.annotate("", end, start, arrowprops=arrow)
        if look.label and any(inside):
            last = points[inside][-1]
            ax.annotate(look.label, last, (6, 4), textcoords="offset points", color=look.ink, bbox=CARD)
    ax.set(xlim=(left, right), ylim=(bottom, top))
