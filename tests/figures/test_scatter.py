"""Scatter and quadrant plots by the data they draw; colours, markers and labels of the style."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from flatlib.figures import COLUMNS, quadrant_plot, scatter
from flatlib.figures.labels import spread
from flatlib.figures.style import BLUE, VERMILLION, series

pytestmark = pytest.mark.usefixtures("style")


def test_scatter_draws_runs_in_their_units(ax):
    table = pd.DataFrame(
        {"batch_size": [32, 32, 512], "lambda_max": [8.0, 4.0, 40.0], "test_accuracy": [0.7, 0.8, 0.6]}
    )
    scatter(table.assign(status="reached"), "lambda_max", "test_accuracy", ax)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines])
    assert drawn == pytest.approx(table[["lambda_max", "test_accuracy"]].to_numpy() * [1, 100])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["batch 32", "batch 512"]
    assert not ax.get_legend().get_frame_on()


def test_quadrants_shade_what_the_story_allows(ax):
    doublings, points = [1.0, 0.0, -1.0] * 2, [-2.0, 0.0, 2.0] * 2
    names = ["rate"] * 3 + ["SAM"] * 3
    table = pd.DataFrame({"intervention": names, "lambda_max": doublings, "test_accuracy": points})
    quadrant_plot(table, ax)
    drawn = [point for line in ax.lines for point in zip(*line.get_data(), strict=True) if line.get_marker() != "None"]
    assert np.array(drawn) == pytest.approx(np.stack([doublings, points], 1))
    inside = [any(area.get_paths()[0].contains_point(place) for area in ax.collections) for place in drawn]
    assert sum(inside) == 4  # all but the two means of their experiments
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rate", "SAM"]


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_batch_sizes_have_colours_and_markers(n):
    looks = list(series(pd.DataFrame({"batch_size": 2 ** np.arange(n)}), "batch_size").values())
    assert (to_hex(looks[0].color).upper(), looks[0].marker) == (VERMILLION, "o")
    assert (to_hex(looks[-1].color).upper(), looks[-1].marker) == (BLUE, "s")
    assert len({look.marker for look in looks}) == n
    names = series(pd.DataFrame({"model": list("abcdefg")[:n]}), "model").values()
    assert len({to_hex(look.color) for look in names}) == n


def test_labels_are_apart_and_in_order():
    heights = np.array([5.0, 0.0, 1.0, 100.0, 2.0])
    apart = spread(heights, 10.0)
    assert np.diff(np.sort(apart)).min() >= 10 - 1e-9
    assert np.argsort(apart).tolist() == np.argsort(heights).tolist()
    assert apart[3] == 100.0


def test_every_axis_label_renders(ax):
    for i, column in enumerate(COLUMNS.values()):
        ax.text(0, i / len(COLUMNS), column.label)
    ax.figure.canvas.draw()
