"""The data of a figure as text: everything that is drawn changes it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flatlib.figures.data_text import data_text

X = np.array([1.0, 2.0, 4.0])
DRAWN = {
    "line": lambda ax, y: ax.plot(X, y),
    "scatter": lambda ax, y: ax.scatter(X, y),
    "errors": lambda ax, y: ax.errorbar(X, X, yerr=y),
    "area": lambda ax, y: ax.fill_between(X, 0, y),
    "bars": lambda ax, y: ax.bar(X, y),
    "lines": lambda ax, y: ax.vlines(X, 0, y),
    "rule": lambda ax, y: ax.axhline(y[0]),
    "image": lambda ax, y: ax.imshow(y[None]),
    "contours": lambda ax, y: ax.contour(np.outer(X, y), levels=[5.0]),
    "text": lambda ax, y: ax.text(1, 1, str(y)),
    "many": lambda ax, y: ax.plot(np.arange(300), np.tile(y, 100)),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_the_text_is_that_of_the_data(style, kind):
    texts = []
    for y in (X, X, 2 * X):
        fig, ax = plt.subplots()
        DRAWN[kind](ax, y)
        texts.append(data_text(fig))
    assert texts[0] == texts[1] != texts[2]


def test_series_are_listed_by_axes(ax):
    ax.set(yscale="log", xlabel="rate", ylabel="sharpness", title="One")
    ax.plot(X, [0.00123456, 1, 30])
    ax.plot([], [])
    assert data_text(ax.figure).splitlines() == [
        *("Figure of 1 axes", "axes 1: One x rate, y (log) sharpness"),
        *("  line, 3 points", "    x: 1 2 4", "    y (log): 0.00123 1 30"),
    ]
