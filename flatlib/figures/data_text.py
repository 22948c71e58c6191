"""The data of a figure as text: for readers without pictures, and for tests, which compare it in place of a drawing."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure

MOST = 24  # points of a series that are listed; of more, a summary is


def data_text(figure: Figure) -> str:
    """Return what a figure draws, in the coordinates of its axes: a line for each series, with three digits.

    A series of more than 24 points is summarized by its number of points, smallest value, mean and largest value.
    """
    parts = [f"Figure of {len(figure.axes)} axes"]
    for number, ax in enumerate(figure.axes, start=1):
        scales = ax.get_xscale(), ax.get_yscale()
        x, y = (name + remark(scale) for name, scale in zip("xy", scales, strict=True))
        title = f" {ax.get_title()}" * bool(ax.get_title())
        parts.append(f"axes {number}:{title} {x} {ax.get_xlabel()}, {y} {ax.get_ylabel()}")
        for kind, points in series_of(ax):
            columns = [listed(column, scale) for column, scale in zip(points.T, scales, strict=True)]
            parts += [f"  {kind}, {len(points)} points", f"    {x}: {columns[0]}", f"    {y}: {columns[1]}"]
        parts += [f"  text {text.get_text()!r}" for text in ax.texts if text.get_text()]
    return "\n".join(parts)


def remark(scale: str) -> str:
    """Return a remark for an axis that is not linear."""
    return "" if scale == "linear" else f" ({scale})"


def series_of(ax: Axes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the kind and the points, shaped (n, 2) with n > 0, of everything that an axes draws."""
    yield from ((kind, points) for kind, points in artists(ax) if len(points))


def artists(ax: Axes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the kind and the points of every artist."""
    for line in ax.lines:
        yield "line", np.asarray(line.get_xydata(), float)
    for collection in ax.collections:
        yield type(collection).__name__, points_of(collection)
    for patch in ax.patches:
        yield type(patch).__name__, np.asarray(patch.get_path().transformed(patch.get_patch_transform()).vertices)
    for image in ax.images:
        values = filled(image.get_array()).ravel()
        yield "image", np.column_stack([np.arange(values.size), values])


def points_of(collection: Collection) -> np.ndarray:
    """Return the points of a collection: of a scatter plot its places, of lines and areas their corners."""
    offsets = filled(collection.get_offsets())
    if len(offsets) > 1 or offsets.any():
        return offsets
    return np.concatenate([np.empty((0, 2)), *(np.asarray(path.vertices) for path in collection.get_paths())])


def filled(values: Any) -> np.ndarray:
    """Return an array of floats without a mask."""
    return np.ma.filled(np.ma.asarray(values, float), math.nan)


def listed(values: np.ndarray, scale: str) -> str:
    """Return values with three digits: of each on a logarithmic axis, of the largest on a linear one.

    >>> listed(np.array([0.001234, 1.234]), "log"), listed(np.array([0.001234, 1.234]), "linear")
    ('0.00123 1.23', '0 1.23')
    """
    finite = values[np.isfinite(values)]
    if len(values) > MOST and len(finite):
        values = np.array([finite.min(), finite.mean(), finite.max()])
    largest = np.abs(finite).max(initial=0)
    if scale == "linear" and largest > 0:
        values = np.round(values, 2 - math.floor(math.log10(largest)))
    return " ".join(f"{value + 0.0:.3g}" for value in values)
