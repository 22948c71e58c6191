"""The book's figure style: colours with fixed meanings, two widths, theory lines, and byte-identical SVG."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from itertools import cycle, islice
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from flatlib.figures.data_text import data_text

ONE_COLUMN = 3.3  # inches, width of a figure in one column
TWO_COLUMNS = 6.8  # inches, width of a figure over both columns

# Okabe and Ito 2008, "Color Universal Design"
VERMILLION, ORANGE, SKY, BLUE = "#D55E00", "#E69F00", "#56B4E9", "#0072B2"
GREEN, PURPLE, BLACK = "#009E73", "#CC79A7", "#000000"

INK, GREY = "#333333", "#767676"
BATCH = {2: (VERMILLION, BLUE), 3: (VERMILLION, ORANGE, BLUE), 4: (VERMILLION, ORANGE, SKY, BLUE)}  # small to large
BATCH_RAMP = LinearSegmentedColormap.from_list("batch", BATCH[4])
CATEGORY = (GREEN, PURPLE, ORANGE, BLACK)
INNER_MARKERS = "^v<>pX"  # between a circle (first) and a square (last); hollow diamonds are published values
MARKERS = "o" + INNER_MARKERS  # of series without a last one
VIRIDIS_END = 0.8  # its last fifth is too pale on white
DASHED: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.0, "zorder": 2.5}  # theory, above the data
EDGE = r"$2/\eta$"  # the sharpness below which gradient descent on a quadratic is stable (Cohen et al. 2021)
NAMES = {"batch_size": "batch", "learning_rate": r"$\eta$ =", "sam_rho": r"$\rho$ =", "dropout": "$p$ ="} | {
    "alpha": r"$\alpha$ =",
    "weight_decay": r"$\gamma$ =",
    "label_smoothing": "smoothing",
}


class Series(NamedTuple):
    """Style of one value of the grouping column: a colour, and a marker that doubles it."""

    color: Any
    marker: str
    label: str

    @property
    def ink(self) -> tuple[float, ...]:
        """The colour darkened by 30 %, for text: orange and sky are too pale for letters on white."""
        return tuple(0.7 * channel for channel in to_rgb(self.color))


def use_style() -> None:
    """Apply ``flatlib.mplstyle``; in a notebook, show figures as SVG without a date, and with their data as text.

    Call it in a chapter's first cell. The same table then gives the same bytes with the same matplotlib version.
    """
    with as_file(files("flatlib.figures") / "flatlib.mplstyle") as path:
        plt.style.use(path)
    try:
        from IPython import get_ipython  # only notebooks need it
    except ImportError:
        return
    shell = get_ipython()
    if hasattr(shell, "kernel"):
        from matplotlib_inline.config import InlineBackend  # only a kernel is sure to have it

        inline: Any = InlineBackend.instance(parent=shell)
        inline.print_figure_kwargs = {"bbox_inches": None, "metadata": {"Date": None, "Creator": None}}
        inline.figure_formats = {"svg"}
        shell.display_formatter.formatters["text/plain"].for_type(
            Figure, lambda figure, page, _: page.text(data_text(figure))
        )


def series(rows: pd.DataFrame, by: str) -> dict[Any, Series]:
    """Return a colour, a marker and a label for each value of column ``by``, in ascending order."""
    values = sorted(rows[by].unique())
    n = len(values)
    inner = islice(cycle(INNER_MARKERS), max(n - 2, 0))
    markers = ["o", *inner, "s"][:n]
    looks = zip(values, _colors(by, n, pd.api.types.is_numeric_dtype(rows[by])), markers, strict=True)
    return {value: Series(color, marker, series_label(by, value)) for value, color, marker in looks}


def _colors(by: str, n: int, ordered: bool) -> Sequence[Any]:
    """Batch sizes from vermillion (small) to blue (large); numbers viridis; up to four names colours of their own."""
    if n == 1:
        return [INK]
    if by == "batch_size":
        return BATCH.get(n) or [BATCH_RAMP(i / (n - 1)) for i in range(n)]
    if ordered or n > len(CATEGORY):
        return [viridis(i / (n - 1)) for i in range(n)]
    return CATEGORY[:n]


def viridis(share: float | np.ndarray) -> Any:
    """Return the colour at a share of the part of viridis that is legible on white, or (n, 4) for n shares."""
    return plt.colormaps["viridis"](VIRIDIS_END * share)


def series_label(by: str, value: Any) -> str:
    """Return the label of one value of a column.

    >>> series_label("batch_size", 32), series_label("learning_rate", 0.05), series_label("model", "vgg11")
    ('batch 32', '$\\\\eta$ = 0.05', 'vgg11')
    """
    return value if isinstance(value, str) else f"{NAMES.get(by, by.replace('_', ' '))} {value:g}"
