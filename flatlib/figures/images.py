"""Images, directions in the space of images, and what a classifier makes of them."""

import numpy as np
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.matrix import SIGNED
from flatlib.figures.style import CATEGORY, INNER_MARKERS, Series


def image(pixels: np.ndarray, ax: Axes, title: str = "") -> None:
    """Draw grey `pixels` (H, W), dark where they are large, as ink on paper; `title` stands above."""
    _draw(pixels, ax, title, cmap="Greys", vmin=0, vmax=max(1.0, float(pixels.max())))


def image_direction(pixels: np.ndarray, ax: Axes, title: str = "") -> None:
    """Draw a direction in the space of images, `pixels` (H, W): green where ink is added, purple where it is taken
    away; `title` stands above."""
    largest = float(np.abs(pixels).max()) or 1.0
    _draw(pixels, ax, title, cmap=SIGNED, vmin=-largest, vmax=largest)


def class_probabilities(named: dict[str, np.ndarray], ax: Axes) -> None:
    """Draw probabilities of the classes, one mark per class for each name; two names are the most that can be read.

    Args:
        named: name -> (C,) probabilities.

    Raises:
        FlatlibError: arrays of different lengths, or more than four of them.
    """
    if len(named) > len(CATEGORY) or len({len(values) for values in named.values()}) != 1:
        raise FlatlibError("one to four lists of probabilities of the same classes are needed")
    for i, (name, values) in enumerate(named.items()):
        look = Series(CATEGORY[i], ("o", *INNER_MARKERS)[i], name)
        classes = np.arange(len(values)) + (i - (len(named) - 1) / 2) * 0.3
        ax.vlines(classes, 0, values, color=look.color, linewidth=2)
        ax.plot(classes, values, look.marker, color=look.color, label=name)
    ax.set(xticks=range(len(values)), xlabel="Class", ylabel="Probability", ylim=(0, 1))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(named), handletextpad=0.2, borderpad=0)


def _draw(pixels: np.ndarray, ax: Axes, title: str, **options: object) -> None:
    if pixels.ndim != 2:
        raise FlatlibError(f"an image (H, W) is needed, got the shape {pixels.shape}")
    ax.imshow(pixels, interpolation="none", **options)
    ax.set(xticks=[], yticks=[], title=title)
    for spine in ax.spines.values():
        spine.set_visible(False)
