"""Arrays as pictures: Hessians, images, directions in the space of images, and a classifier's probabilities."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, LinearSegmentedColormap

from flatlib.errors import FlatlibError
from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import CATEGORY, GREY, MARKERS

# purple below zero, green above, and darker towards both ends
SIGNED = LinearSegmentedColormap.from_list("signed", ["#6B2650", "#CC79A7", "white", "#009E73", "#004D38"])


@placeholder_if_empty
def curvature_matrix(matrix: np.ndarray, ax: Axes, blocks: int = 1) -> None:
    """Draw a symmetric matrix: green entries are positive, purple ones negative, white ones zero.

    The colour follows the square root of an entry's size, so that small ones are seen.

    Args:
        matrix: Entries, shape (n, n).
        blocks: Number of equal parts of n, numbered from 0 along both axes, with lines between them; a divisor of n.
    """
    n = len(matrix)
    if matrix.shape != (n, n) or blocks < 1 or n % blocks:
        raise FlatlibError(f"a square matrix in {blocks} blocks is needed, got the shape {matrix.shape}")
    largest = np.abs(matrix).max(initial=0.0)
    if not 0 < largest < np.inf:
        raise EmptyPlot(f"nothing to draw: the largest entry is {largest:g}")
    root_and_square = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2)
    norm = FuncNorm(root_and_square, vmin=-largest, vmax=largest)
    edges = np.arange(blocks + 1) * n / blocks
    shown = ax.imshow(matrix, cmap=SIGNED, norm=norm, interpolation="none", extent=(0, n, n, 0))
    for edge in edges[1:-1]:
        ax.axhline(edge, color=GREY, linewidth=0.4)
        ax.axvline(edge, color=GREY, linewidth=0.4)
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks(edges[:-1] + n / blocks / 2, [str(block) for block in range(blocks)])
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.8, ticks=[-largest, 0, largest], format="%.2g")
    bar.outline.set_visible(False)


def image(pixels: np.ndarray, ax: Axes, title: str = "") -> None:
    """Draw grey ``pixels`` (H, W), dark where they are large, as ink on paper; ``title`` stands above."""
    _draw(pixels, ax, title, cmap="Greys", vmin=0, vmax=max(1.0, float(pixels.max())))


def image_direction(pixels: np.ndarray, ax: Axes, title: str = "") -> None:
    """Draw a direction in image space, ``pixels`` (H, W): green adds ink, purple removes it; ``title`` stands above."""
    largest = float(np.abs(pixels).max()) or 1.0
    _draw(pixels, ax, title, cmap=SIGNED, vmin=-largest, vmax=largest)


def _draw(pixels: np.ndarray, ax: Axes, title: str, **options: Any) -> None:
    """Draw an image without axes."""
    if pixels.ndim != 2:
        raise FlatlibError(f"an image (H, W) is needed, got the shape {pixels.shape}")
    ax.imshow(pixels, interpolation="none", **options)
    ax.set(xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set_visible(False)


def class_probabilities(named: dict[str, np.ndarray], ax: Axes) -> None:
    """Draw probabilities of the classes, one mark per class for each name; more than two names are hard to read.

    Args:
        named: Probabilities (C,) by name, four at most.
    """
    if len(named) > len(CATEGORY) or len({len(values) for values in named.values()}) != 1:
        raise FlatlibError("one to four lists of probabilities of the same classes are needed")
    for i, ((name, values), color, marker) in enumerate(zip(named.items(), CATEGORY, MARKERS, strict=False)):
        classes = np.arange(len(values)) + (i - (len(named) - 1) / 2) * 0.3
        ax.vlines(classes, 0, values, color=color, linewidth=2)
        ax.plot(classes, values, marker, color=color, label=name)
    ax.set(xticks=range(len(values)), xlabel="Class", ylabel="Probability", ylim=(0, 1))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(named), handletextpad=0.2, borderpad=0)
