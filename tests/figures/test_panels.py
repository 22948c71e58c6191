"""Two views of one figure: side by side, and one below the other."""

import re
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest

from flatlib.figures.panels import WIDEST, cuts, svg_with_panels
from flatlib.figures.style import use_style


@pytest.fixture
def drawn():
    """Return a function that draws panels in a figure and returns it."""

    def made(rows, columns, width=6.8):
        figure, axes = plt.subplots(rows, columns, figsize=(width, 2.5 * rows), squeeze=False)
        for ax in axes.flat:
            ax.plot([0, 1], [0, 1])
            ax.set(xlabel="x", ylabel="a long label")
        return figure

    with plt.rc_context():
        use_style()
        yield made
        plt.close("all")


def test_panels_are_stacked_in_a_second_view(drawn):
    svg = svg_with_panels(drawn(2, 2))
    tiles = [[float(x) for x in box.split()] for box in re.findall(r'viewBox="([^"]+)"><use href="#figure_1"', svg)]
    (view,) = re.findall(r'<view id="narrow" viewBox="([^"]+)"', svg)
    left, top, width, height = map(float, view.split())
    assert (left, top, len(tiles)) == (0, 360, 4)
    assert width == pytest.approx(max(tile[2] for tile in tiles), abs=0.1)
    assert height == pytest.approx(2 * 360, abs=0.2), "each of the two columns"
    assert [tile[2] + tile[0] for tile in tiles[1::2]] == pytest.approx([489.6] * 2, abs=0.2), "nothing is cut off"
    assert svg.count('viewBox="0 0 489.6 360"') == 1, "the drawing itself stays"


def test_edges_lie_between_the_panels(drawn):
    figure = drawn(1, 3)
    across, down = cuts(figure)
    assert down == [0, pytest.approx(180)]
    for edge, (left, right) in zip(across[1:-1], pairwise(figure.axes), strict=True):
        assert left.get_tightbbox().x1 < edge * figure.dpi / 72 < right.get_tightbbox().x0


def test_a_single_panel_is_narrow_enough_for_a_phone(drawn):
    figure = drawn(1, 1)
    assert "narrow" not in svg_with_panels(figure)
    assert figure.get_figwidth() == WIDEST


def test_each_panel_can_be_read_alone(drawn):
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2), sharey=True)
    svg_with_panels(figure)
    assert all(any(label.get_visible() for label in ax.get_yticklabels()) for ax in axes)


def test_a_figure_without_axes_is_not_shown():
    assert svg_with_panels(plt.figure()) is None
    plt.close()
