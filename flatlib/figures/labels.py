"""Labels beside the lines they name, moved apart where two would overlap; a key above the axes where lines cross."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from flatlib.figures.style import GREY, Series

CARD: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}  # text legible over lines
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderpad": 0}  # of a legend on top of axes
OFFSET = 7  # points between a line's end and its label


class End(NamedTuple):
    """End of a line in data coordinates (x None: at the right edge of the axes), and its series."""

    x: float | None
    y: float
    series: Series


def label_ends(ax: Axes, ends: list[End]) -> None:
    """Write each series' label right of its line's end. Call it last: it needs the axes' final limits."""
    gap = 1.3 * float(ax.xaxis.label.get_fontsize())
    left, _ = ax.get_xlim()  # reading a limit applies pending autoscaling
    ax.get_ylim()
    points = 72 / ax.figure.dpi
    heights = np.array([ax.transData.transform((left, end.y))[1] * points for end in ends])
    for (x, y, look), shift in zip(ends, spread(heights, gap) - heights, strict=True):
        coordinates = ax.get_yaxis_transform() if x is None else ax.transData
        text: dict[str, Any] = {"va": "center", "color": look.ink, "bbox": CARD, "annotation_clip": False}
        place = (1 if x is None else x, y)
        ax.annotate(look.label, place, (OFFSET, shift), xycoords=coordinates, textcoords="offset points", **text)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Return heights at least ``gap`` apart, in the same order; those that had to move stay centred where they were.

    >>> spread(np.array([0.0, 1.0, 50.0]), 10.0).tolist()
    [-4.5, 5.5, 50.0]
    """
    order, steps, apart = np.argsort(heights, kind="stable"), gap * np.arange(len(heights)), np.empty(len(heights))
    apart[order] = isotonic_regression(heights[order] - steps).x + steps
    return apart


def label_theory(ax: Axes, x: float, y: float, text: str) -> None:
    """Write a theory line's name on it, at its left end (x, y)."""
    ax.annotate(text, (x, y), (5, 3), textcoords="offset points", va="bottom", color=GREY, bbox=CARD)


def key_above(ax: Axes, looks: Iterable[Series], linestyle: Literal["-", "none"]) -> None:
    """Name the series in rows above the axes, for clouds and crossing lines, where a label beside one would mislead."""
    looks = list(looks)
    if not looks:
        return
    marks = [Line2D([], [], color=c, marker=marker, label=label, linestyle=linestyle) for c, marker, label in looks]
    spacing: dict[str, Any] = {"handlelength": 1.5, "handletextpad": 0.5, "columnspacing": 1.5, "labelspacing": 0.3}
    columns = 2 if len(looks) <= 4 else 3
    ax.legend(handles=marks, labelcolor=[look.ink for look in looks], ncols=columns, **ABOVE, **spacing)
