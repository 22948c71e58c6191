"""Verdicts as pictures: intervals against the regions that were predicted, and rows of dots."""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import BLUE, GREEN, GREY, INK, VERMILLION
from flatlib.stats import require_columns

VERDICTS: dict[str, dict[str, Any]] = {  # distinguished not by colour alone
    "supported": {"marker": "o", "color": GREEN},
    "contradicted": {"marker": "X", "color": VERMILLION},
    "inconclusive": {"marker": "o", "color": GREY, "markerfacecolor": "white"},
    "not tested here": {"marker": "D", "color": BLUE, "markerfacecolor": "white"},
}
NUMBER = r"-?\d[\d.]*(?:e-?\d+)?"
WIDTH, TOP, ROW, MARK = 4.6, 0.35, 0.6, 0.16  # inches: of a picture, its key, a prediction without marks, a mark
IN_A_ROW = 30  # dots


def verdict_size(judged: pd.DataFrame) -> tuple[float, float]:
    """Return width and height in inches of a figure for the `judged` table of :func:`verdict_intervals`."""
    return WIDTH, TOP + ROW * judged["prediction"].nunique() + MARK * len(judged)


@placeholder_if_empty
def verdict_intervals(judged: pd.DataFrame, ax: Axes) -> None:
    """Draw for each prediction the region that it allows, and on it the interval that was measured at each scale.

    Every prediction has an axis of its own. A scale without a number has its name and no mark.

    Args:
        judged: A table of verdicts with columns prediction, unit, threshold, scale, estimate, low, high and verdict.
    """
    require_columns(judged, ["prediction", "unit", "threshold", "scale", "estimate", "low", "high", "verdict"])
    if judged.empty:
        raise EmptyPlot("nothing to draw: there is no verdict")
    _, height = verdict_size(judged)
    ax.set_axis_off()
    marks = [Line2D([], [], linestyle="none", markersize=5, label=word, **look) for word, look in VERDICTS.items()]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.02, 1.0), "borderpad": 0}
    ax.legend(handles=marks, ncols=4, handletextpad=0.1, columnspacing=0.7, fontsize=8, **place)
    top = height - TOP
    for (prediction, unit), rows in judged.groupby(["prediction", "unit"], sort=False):
        bottom = top - ROW - MARK * len(rows)
        panel = ax.inset_axes((0.0, (bottom + 0.34) / height, 0.8, (top - bottom - ROW + 0.04) / height))
        _draw_intervals(rows, panel)
        panel.set_title(str(prediction), fontsize=9, pad=3)
        panel.annotate(_shortened(str(unit)), (0, 0), (0, -13), "axes fraction", textcoords="offset points", **_SMALL)
        top = bottom


_SMALL: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "top"}


def _shortened(unit: str, most: int = 72) -> str:
    """Return a unit that fits below its axis."""
    fits = unit if len(unit) <= most else unit[: most - 1].rsplit(" ", 1)[0] + " …"
    return fits.replace("λ_max", r"$\lambda_{\max}$")


def _draw_intervals(rows: pd.DataFrame, panel: Axes) -> None:
    """Draw the region and the intervals of one prediction, the first scale at the top."""
    low, high = region(rows["threshold"].iloc[0])
    numbers = np.array([*rows[["estimate", "low", "high"]].to_numpy(float).flat, low, high])
    numbers = numbers[np.isfinite(numbers)]
    margin = 0.08 * (np.ptp(numbers) or abs(numbers[0]) or 1.0)
    left, right = numbers.min() - margin, numbers.max() + margin
    panel.axvspan(max(low, left), min(high, right), color=GREEN, alpha=0.15, linewidth=0)
    for edge in (low, high):
        panel.axvline(edge, color=GREEN, linewidth=1.0) if np.isfinite(edge) else None
    for height, row in zip(range(len(rows))[::-1], rows.itertuples(), strict=True):
        look = VERDICTS[row.verdict]
        panel.hlines(
            height, np.clip(row.low, left, right), np.clip(row.high, left, right), look["color"], linewidth=1.6
        )
        panel.plot(row.estimate, height, linestyle="none", markersize=5.5, **look)
        place: dict[str, Any] = {"textcoords": "offset points"} | _SMALL | {"va": "center"}
        panel.annotate(row.scale, (1, height), (6, 0), ("axes fraction", "data"), **place)
    panel.set(xlim=(left, right), ylim=(-0.7, len(rows) - 0.3), yticks=[])
    panel.locator_params(axis="x", nbins=6)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="x", labelsize=8, pad=2)


def region(threshold: str) -> tuple[float, float]:
    """Return the ends of a region that a table of verdicts gives as text.

    >>> region("> -0.5"), region("in 0.7 .. 1.5")
    ((-0.5, inf), (0.7, 1.5))
    """
    ends = [float(number) for number in re.findall(NUMBER, threshold.replace("..", " "))]
    if len(ends) == 2:
        return ends[0], ends[1]
    return (ends[0], np.inf) if threshold.startswith(">") else (-np.inf, ends[0])


@placeholder_if_empty
def verdict_dots(judged: pd.DataFrame, ax: Axes, *, by: str) -> None:
    """Draw a dot for the verdict on each prediction, in a block for each value of ``by``, sorted by verdict.

    Args:
        judged: Columns verdict and ``by``, whose values are the headings; they keep their order.
        by: The column that divides the predictions.
    """
    require_columns(judged, ["verdict", by])
    if judged.empty:
        raise EmptyPlot("nothing to draw: there is no verdict")
    height = 0.0
    for name, rows in judged.groupby(by, sort=False):
        held = int((rows["verdict"] == "supported").sum())
        ax.text(-0.5, height + 0.2, f"{name}: {held} of {len(rows)} hold", color=INK, fontsize=10, weight="bold")
        words = [word for word in VERDICTS for _ in range(int((rows["verdict"] == word).sum()))]
        for i, word in enumerate(words):
            row, column = divmod(i, IN_A_ROW)
            ax.plot(column, height - 1 - row, linestyle="none", markersize=7, **VERDICTS[word])
        height -= 2.6 + (len(words) - 1) // IN_A_ROW
    marks = [Line2D([], [], linestyle="none", markersize=6, label=word, **look) for word, look in VERDICTS.items()]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0.0), "borderpad": 0}
    ax.legend(handles=marks, ncols=4, handletextpad=0.1, columnspacing=0.8, fontsize=8, **place)
    ax.set(xlim=(-1, IN_A_ROW), ylim=(height + 1.2, 1.4))
    ax.set_axis_off()
