"""Colours that can be told from the page in both themes, and tick labels that have room."""

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from flatlib.figures import scatter, style
from flatlib.figures.axes import format_log_ticks
from flatlib.figures.scatter import COLORS
from flatlib.figures.ticks import SparseFormatter, set_ticks
from flatlib.figures.verdicts import VERDICTS

HUE = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])  # of hue-rotate(180deg)
MARKS = [*COLORS, *style.CATEGORY, *style.BATCH[4], *(mark["color"] for mark in VERDICTS.values())]
VIRIDIS = [tuple(style.viridis(share)[:3]) for share in np.linspace(0, 1, 11)]


def dark(color):
    """Return a colour as flatlib.css shows it on the dark page: invert(0.93) hue-rotate(180deg)."""
    return np.clip(HUE @ (0.93 - 0.86 * np.array(to_rgb(color))), 0, 1)


def contrast(color, paper):
    """Return the contrast of WCAG 2."""
    light = []
    for channels in (np.array(to_rgb(color)), np.array(to_rgb(paper))):
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(light) / min(light)


@pytest.mark.parametrize("color", dict.fromkeys([*MARKS, *VIRIDIS]))
def test_marks_and_their_names_are_seen_in_both_themes(color):
    ink = style.Series(color, "o", "").ink
    for turned in (to_rgb, dark):
        assert contrast(turned(color), turned("white")) >= 3
        assert contrast(turned(style.faint(color)), turned("white")) >= 3
        assert contrast(turned(ink), turned("white")) >= 4.5


@pytest.mark.parametrize("color", ["black", "#00805D", "#A87400", "white"])
def test_contrast_is_that_of_wcag(color):
    assert style.contrast(color) == pytest.approx(contrast(color, "white"))
    assert style.contrast("black") == pytest.approx(21)


def test_a_contradiction_has_one_colour():
    assert VERDICTS["contradicted"]["color"] == style.VERMILLION, "as in the badges"


@pytest.fixture
def narrow():
    """Return axes of a third of a page."""
    with plt.rc_context():
        style.use_style()
        figure, ax = plt.subplots(figsize=(2.1, 2.4))
        yield ax
        plt.close(figure)


def labels(axis, side):
    """Return the ends of the labels that are drawn, in their order along the axis."""
    axis.axes.figure.draw_without_rendering()
    low, high = np.add([axis.axes.bbox.intervalx, axis.axes.bbox.intervaly][side], (-1, 1))
    boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
    ends = sorted([box.intervalx, box.intervaly][side].tolist() for box in boxes)
    return [end for end in ends if low <= sum(end) / 2 <= high]


@pytest.mark.parametrize("values", [(0.005, 0.01, 0.02, 0.05, 0.1, 0.2), (0, 0.001, 0.003, 0.01), (20, 50, 250, 1000)])
def test_tick_labels_do_not_touch(narrow, values):
    narrow.plot(values, range(1, len(values) + 1))
    if values[0]:
        narrow.set_xscale("log")
    set_ticks(narrow, values)
    found = labels(narrow.xaxis, 0)
    assert len(found) >= 2
    assert all(one[1] < other[0] for one, other in pairwise(found))


@pytest.mark.parametrize("values", [(0.85, 1.4), (0.06, 0.3), (0.02, 90), (11, 15)])
def test_a_log_axis_has_numbers(narrow, values):
    narrow.plot([0, 1], values)
    narrow.set_yscale("log")
    format_log_ticks(narrow.yaxis, *values)
    assert len(labels(narrow.yaxis, 1)) >= 2


def test_labels_without_room_are_empty():
    assert SparseFormatter()(-0.5) == "\N{MINUS SIGN}0.5"


def test_scatter_marks_have_a_full_edge(narrow):
    runs = pd.DataFrame({"lambda_max": [1.0, 2.0], "test_accuracy": [0.5, 0.6], "batch_size": [10, 20]})
    scatter(runs.assign(status="reached"), "lambda_max", "test_accuracy", narrow)
    svg = io.StringIO()
    narrow.figure.savefig(svg, format="svg")
    assert "stroke-opacity" not in svg.getvalue(), "as Matplotlib writes it for a half transparent face"
