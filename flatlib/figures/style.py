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
from flatlib.figures.panels import svg_with_panels

ONE_COLUMN = 3.3  # inches, width of a figure in one column
TWO_COLUMNS = 6.8  # inches, width of a figure over both columns

# The hues of Okabe and Ito 2008, "Color Universal Design", darkened: 3:1 or more on white (WCAG 1.4.11)
VERMILLION, ORANGE, SKY, BLUE = "#C45500", "#A87400", "#2E8FC4", "#0072B2"
GREEN, PURPLE, BLACK = "#00805D", "#B0558A", "#000000"

INK, GREY = "#333333", "#767676"
BATCH = {2: (VERMILLION, BLUE), 3: (VERMILLION, ORANGE, BLUE), 4: (VERMILLION, ORANGE, SKY, BLUE)}  # small to large
BATCH_RAMP = LinearSegmentedColormap.from_list("batch", BATCH[4])
CATEGORY = (GREEN, PURPLE, ORANGE, BLACK, BLUE, VERMILLION)
INNER_MARKERS = "^v<>pX"  # between a circle (first) and a square (last); hollow diamonds are published values
MARKERS = "o" + INNER_MARKERS  # of series without a last one
LEGIBLE = 3.0  # contrast of a mark or a line to the paper
VIRIDIS_END = 0.55  # from here on its contrast to white is below 3:1
DASHED: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.0, "zorder": 2.5}  # theory, above the data
EDGE = r"$2/\eta$"  # the sharpness below which gradient descent on a quadratic is stable (Cohen et al. 2021)
NAMES = {"batch_size": "batch", "learning_rate": r"$\eta$ =", "sam_rho": r"$\rho$ =", "dropout": "$p$ ="} | {
    "alpha": r"$\alpha$ =",
    "weight_decay": r"$\gamma$ =",
    "label_smoothing": "smoothing",
}
VALUES = {  # of a column of names, as a reader knows them
    **{"small_cnn": "CNN", "small_cnn_bn": "CNN, batch norm", "vgg11": "VGG-11", "vgg11_bn": "VGG-11, batch norm"},
    **{"mlp": "MLP", "mlp_bn": "MLP, batch norm", "softmax_regression": "softmax regression"},
    **{"sgd": "SGD", "heavy_ball": "SGD, momentum", "adam": "Adam", "adamw": "AdamW"},
    **{"adagrad": "AdaGrad", "adashift": "AdaShift", "adabound": "AdaBound"},
}


class Series(NamedTuple):
    """Style of one value of the grouping column: a colour, and a marker that doubles it."""

    color: Any
    marker: str
    label: str

    @property
    def ink(self) -> tuple[float, ...]:
        """The colour darkened by 30 %, for text: letters need a contrast of 4.5:1."""
        return tuple(0.7 * channel for channel in to_rgb(self.color))

    @property
    def faint(self) -> tuple[float, ...]:
        """The colour as light as a line may be, for single seeds behind their mean."""
        return faint(self.color)


def faint(color: Any) -> tuple[float, ...]:
    """Return a colour mixed with as much white as leaves it a contrast of 3:1 on white (WCAG 1.4.11)."""
    shades = [tuple(1 - share * (1 - channel) for channel in to_rgb(color)) for share in np.linspace(0.2, 1, 81)]
    return next((shade for shade in shades if contrast(shade) >= LEGIBLE), shades[-1])


def contrast(color: Any) -> float:
    """Return the contrast of a colour to white as WCAG 2 defines it, from 1 to 21."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05))


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
        inline.figure_formats = {"svg"}
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg_with_panels)
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
    """Batch sizes from vermillion (small) to blue (large); numbers viridis; up to six names colours of their own."""
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
    ('batch 32', '$\\\\eta$ = 0.05', 'VGG-11')
    """
    return VALUES.get(value, value) if isinstance(value, str) else f"{NAMES.get(by, by.replace('_', ' '))} {value:g}"
