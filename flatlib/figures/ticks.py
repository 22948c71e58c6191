"""Numbers at the ticks of an axis: plain ones, as many as have room."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

from flatlib.errors import FlatlibError


def set_ticks(ax: Axes, values: Sequence[float] | np.ndarray) -> None:
    """Give each of the x values a tick, and those a number that have room for it."""
    ax.set_xticks(values)
    ax.xaxis.set_major_formatter(SparseFormatter())
    ax.minorticks_off()


def format_log_ticks(axis: XAxis | YAxis, low: float, high: float) -> None:
    """Write plain numbers at decades; at 1, 2 and 5 of each, or evenly, where the data have too few coarser ones."""
    ticks = {subs: LogLocator(subs=subs).tick_values(low, high) for subs in ((1.0,), (1.0, 2.0, 5.0))}
    enough = [subs for subs, places in ticks.items() if sum(low / 1.1 <= place <= high * 1.1 for place in places) >= 3]
    axis.set_major_locator(LogLocator(subs=enough[0]) if enough else MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(SparseFormatter())
    axis.set_minor_formatter(NullFormatter())


class SparseFormatter(Formatter):
    """Write numbers where they have room: a label that would touch another is left out, decades last."""

    DIGIT, POINT, LINE, GAP = 0.64, 0.32, 1.1, 0.5  # in units of the font's size: widths in DejaVu Sans, height, space

    def __call__(self, value: float, position: int | None = None) -> str:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels of all ticks, an empty one where there is no room."""
        texts = [self(value) for value in values]
        low, high = sorted(self._own_axis().get_view_interval())
        shown = [i for i, value in enumerate(values) if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        taken: list[tuple[float, float]] = []
        kept = set()
        for i in sorted(shown, key=lambda i: (not _is_decade(values[i]), i)):
            start, end = self._span(values[i], texts[i])
            if all(end < a or b < start for a, b in taken):
                taken.append((start, end))
                kept.add(i)
        return [text if i in kept or i not in shown else "" for i, text in enumerate(texts)]

    def _own_axis(self) -> XAxis | YAxis:
        """Return the axis of an axes that it formats."""
        if not isinstance(self.axis, XAxis | YAxis):
            raise FlatlibError("the labels of a colour bar or of a formatter without an axis are not thinned out")
        return self.axis

    def _span(self, value: float, text: str) -> tuple[float, float]:
        """Return where a label begins and ends along its axis, in units of the font's size."""
        axis = self._own_axis()
        size = plt.rcParams["xtick.labelsize"] * axis.axes.figure.dpi / 72
        across = isinstance(axis, XAxis)
        place = axis.axes.transData.transform((value, value))[0 if across else 1] / size
        points = text.count(".") + text.count(" ")
        half = (self.DIGIT * (len(text) - points) + self.POINT * points if across else self.LINE) / 2 + self.GAP / 2
        return place - half, place + half


def _is_decade(value: float) -> bool:
    """Return whether a value is zero or a power of ten."""
    return value == 0 or abs(math.log10(abs(value)) - round(math.log10(abs(value)))) < 1e-9
