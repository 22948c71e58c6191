"""A curvature matrix as a picture: one pixel for each pair of weights."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, LinearSegmentedColormap

from flatlib.errors import FlatlibError
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import GREEN, GREY, PURPLE

SIGNED = LinearSegmentedColormap.from_list("signed", ["#6B2650", PURPLE, "white", GREEN, "#004D38"])
"""Purple below zero, green above, and darker towards both ends."""


@placeholder_if_empty
def curvature_matrix(matrix: np.ndarray, ax: Axes, blocks: int = 1) -> None:
    """Draw a symmetric matrix: green entries are positive, purple ones negative, white ones zero.

    The colour follows the square root of an entry's size, so that small ones are seen.

    Args:
        matrix: (n, n).
        blocks: n is divided into so many equal parts, numbered from 0 along both axes, with lines between them.

    Raises:
        FlatlibError: a matrix that is not square or that `blocks` does not divide.
    """
    n = len(matrix)
    if matrix.shape != (n, n) or blocks < 1 or n % blocks:
        raise FlatlibError(f"a square matrix in {blocks} blocks is needed, got the shape {matrix.shape}")
    largest = np.abs(matrix).max(initial=0.0)
    if not 0 < largest < np.inf:
        raise EmptyPlot(f"nothing to draw: the largest entry is {largest:g}")
    norm = FuncNorm((_root, _square), vmin=-largest, vmax=largest)
    edges = np.arange(blocks + 1) * n / blocks
    shown = ax.imshow(matrix, cmap=SIGNED, norm=norm, interpolation="none", extent=(0, n, n, 0))
    for edge in edges[1:-1]:
        ax.axhline(edge, color=GREY, linewidth=0.4)
        ax.axvline(edge, color=GREY, linewidth=0.4)
    middles = edges[:-1] + n / blocks / 2
    ax.set_xticks(middles, range(blocks))
    ax.set_yticks(middles, range(blocks))
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.8, ticks=[-largest, 0, largest], format="%.2g")
    bar.outline.set_visible(False)


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * x**2
