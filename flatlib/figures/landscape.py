"""The loss around a network: along eigenvectors of its Hessian or other directions, and in the plane of two."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flatlib.errors import FlatlibError
from flatlib.figures.axes import COLUMNS, require_columns
from flatlib.figures.labels import End, label_ends
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import GREY, INK, INNER_MARKERS, VIRIDIS_END, Series
from flatlib.figures.theory import DASHED

LOSS = COLUMNS["train_loss"].label
LEVELS = 8  # contours; more run together at 3.3 inches


@placeholder_if_empty
def landscape_lines(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss along eigenvectors, each named by its eigenvalue; its quadratic approximation dashed and grey.

    Args:
        table: one row per direction and step with columns direction, eigenvalue, step, loss, quadratic
            (`flatlib.sharpness.Lines.table`).

    Raises:
        FlatlibError: a missing column.
    """
    rows = _finite(table, "step", "loss", "direction", "eigenvalue", "quadratic")
    named = rows.groupby("direction")["eigenvalue"].first()
    _lines(rows, {j: rf"$\lambda_{{{j:g}}}$ = {value:.3g}" for j, value in named.items()}, ax)
    ax.set_xlabel("Step along eigenvector $t$")


@placeholder_if_empty
def landscape_slices(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss along named directions, each with its curvature; its quadratic approximation dashed and grey.

    Args:
        table: one row per direction and step with columns direction (a name), curvature, step, loss, quadratic
            (`flatlib.sharpness.loss_along`).

    Raises:
        FlatlibError: a missing column.
    """
    require_columns(table, "direction")
    rows = _finite(table, "step", "loss", "curvature", "quadratic")
    named = rows.groupby("direction", sort=False)["curvature"].first()
    _lines(rows, {name: f"{name}\n$v^\\top H v$ = {value:.2g}" for name, value in named.items()}, ax)
    ax.set_xlabel("Step along a direction $t$")


def _lines(rows: pd.DataFrame, labels: dict[object, str], ax: Axes) -> None:
    """One curve for each direction in `labels`, in their order, beside its parabola."""
    ends = []
    for i, (direction, label) in enumerate(labels.items()):
        line = rows[rows["direction"] == direction]
        share = i / max(len(labels) - 1, 1)
        marker = ("o", *INNER_MARKERS)[i % (1 + len(INNER_MARKERS))]
        color = INK if len(labels) == 1 else plt.colormaps["viridis"](VIRIDIS_END * share)
        look = Series(color, marker, label)
        ax.plot(line["step"], line["loss"], color=look.color, marker=look.marker, markevery=[-1])
        ax.plot(line["step"], line["quadratic"], **DASHED)
        ends.append(End(line["step"].iloc[-1], line["loss"].iloc[-1], look))
    ax.set_ylabel(LOSS)
    label_ends(ax, ends)


@placeholder_if_empty
def landscape_contours(table: pd.DataFrame, ax: Axes) -> None:
    """Draw the loss in the plane of two eigenvectors as labelled contours; a cross marks the network.

    The levels are spaced evenly in the logarithm of the loss where it is positive and spans a factor of ten.

    Args:
        table: one row per point of a full grid with columns step_1, step_2, loss (`flatlib.sharpness.Plane.table`).

    Raises:
        FlatlibError: a missing column, or points that are not a full grid.
    """
    rows = _finite(table, "step_1", "step_2", "loss")
    grid = rows.pivot_table(index="step_2", columns="step_1", values="loss")
    if grid.isna().any(axis=None) or min(grid.shape) < 2:
        raise FlatlibError(f"contours need a full grid of step_1 and step_2, got {len(rows)} points")
    low, high = grid.min(axis=None), grid.max(axis=None)
    if low == high:
        raise EmptyPlot(f"nothing to draw: the loss is {low:g} everywhere")
    logarithmic = low > 0 and high > 10 * low
    levels = np.geomspace(low, high, LEVELS + 2)[1:-1] if logarithmic else MaxNLocator(LEVELS).tick_values(low, high)
    ramp = plt.colormaps["viridis"](np.linspace(0, VIRIDIS_END, len(levels)))
    drawn = ax.contour(grid.columns, grid.index, grid.to_numpy(), levels=levels, colors=list(ramp), linewidths=1.2)
    ax.clabel(drawn, fmt="%.3g", fontsize=0.8 * ax.xaxis.label.get_fontsize())
    ax.plot(0, 0, "+", color=INK, ms=7)
    ax.set_aspect("equal")
    ax.set(xlabel="Step along $v_1$", ylabel="Step along $v_2$")
    ax.annotate(LOSS, (1, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="right", color=GREY)


def _finite(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    require_columns(table, *columns)
    rows = table[np.isfinite(table[list(columns)].astype(float)).all(axis=1)]
    if rows.empty:
        raise EmptyPlot(f"nothing to draw: none of the table's {len(table)} rows is finite")
    return rows.sort_values(list(columns[:1]), kind="stable")
