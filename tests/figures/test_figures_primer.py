"""Figures of matrices, densities and images, by the data they draw."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from flatlib.errors import FlatlibError
from flatlib.figures import class_probabilities, curvature_matrix, image, image_direction, spectral_density
from flatlib.figures.matrix import SIGNED

pytestmark = pytest.mark.usefixtures("style")
MATRIX = np.array([[4.0, -1.0], [-1.0, 0.0]])


def density_table() -> pd.DataFrame:
    grid = np.linspace(-1, 5, 7)
    parts = [pd.DataFrame({"probe": i, "eigenvalue": grid, "density": np.exp(-(grid**2)) * i}) for i in (1, 3)]
    return pd.concat(parts, ignore_index=True)


DRAW = {
    "matrix": lambda ax: curvature_matrix(MATRIX, ax),
    "density": lambda ax: spectral_density(density_table(), ax, outliers=[4.0]),
    "image": lambda ax: image(np.eye(3), ax, "three"),
    "direction": lambda ax: image_direction(-np.eye(3), ax),
    "probabilities": lambda ax: class_probabilities({"a": np.array([0.2, 0.8])}, ax),
}


@pytest.mark.parametrize("kind", DRAW)
def test_same_data_give_the_same_bytes(kind):
    def svg():
        figure, axes = plt.subplots()
        DRAW[kind](axes)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert svg() == svg()


def test_a_matrix_is_drawn_entry_by_entry_with_zero_in_white(ax):
    curvature_matrix(MATRIX, ax)
    (shown,) = ax.images
    np.testing.assert_array_equal(shown.get_array(), MATRIX)
    colours = shown.to_rgba(np.array([4.0, -4.0, 0.0]))
    assert colours == pytest.approx(SIGNED([1.0, 0.0, 0.5]))
    assert colours[2, :3] == pytest.approx([1, 1, 1], abs=0.01)
    assert shown.norm(1.0) == pytest.approx(0.75)  # a quarter of the largest entry has half of its colour


def test_blocks_are_numbered_and_divided(ax):
    curvature_matrix(np.ones((6, 6)), ax, blocks=3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert ax.get_yticks().tolist() == [1, 3, 5]
    assert len(ax.lines) == 2 * 2
    with pytest.raises(FlatlibError, match="4 blocks"):
        curvature_matrix(np.ones((6, 6)), ax, blocks=4)
    with pytest.raises(FlatlibError, match="square matrix"):
        curvature_matrix(np.ones((6, 3)), ax)


def test_a_matrix_of_zeros_says_so(ax):
    curvature_matrix(np.zeros((2, 2)), ax)
    assert "nothing to draw" in ax.texts[0].get_text()


def test_a_density_has_every_probe_their_mean_and_its_outliers(ax):
    table = density_table()
    spectral_density(table, ax, outliers=[3.0, 4.0])
    faint, bold = ([line for line in ax.lines if line.get_linewidth() == width] for width in (0.6, 1.4))
    floor = ax.get_ylim()[0]
    assert len(faint) == 2
    (mean,) = bold
    expected = 2 * np.exp(-(np.linspace(-1, 5, 7) ** 2))
    assert mean.get_ydata() == pytest.approx(expected.clip(floor))
    assert floor == pytest.approx(2e-6)
    (marks,) = [line for line in ax.lines if line.get_marker() == "^"]
    assert marks.get_xdata().tolist() == [3.0, 4.0]
    assert ax.get_yscale() == "log"


def test_a_density_of_nothing_says_so(ax):
    spectral_density(density_table().assign(density=0.0), ax)
    assert "nothing to draw" in ax.texts[0].get_text()
    with pytest.raises(FlatlibError, match="no column probe"):
        spectral_density(density_table().drop(columns="probe"), ax)


def test_an_image_is_ink_on_paper_and_a_direction_has_signs(ax):
    image(np.array([[0.0, 0.5], [1.0, 0.25]]), ax, "two")
    (shown,) = ax.images
    assert shown.to_rgba(np.array([0.0]))[0, :3] == pytest.approx([1, 1, 1])
    assert (ax.get_title(loc="left"), ax.get_xticks().tolist()) == ("two", [])
    other = plt.subplots()[1]
    image_direction(np.array([[-0.2, 0.1]]), other)
    (signed,) = other.images
    assert (signed.norm.vmin, signed.norm.vmax) == (-0.2, 0.2)
    with pytest.raises(FlatlibError, match=r"an image \(H, W\)"):
        image(np.ones(4), ax)


def test_probabilities_stand_side_by_side(ax):
    class_probabilities({"before": np.array([0.9, 0.1]), "after": np.array([0.3, 0.7])}, ax)
    before, after = ax.lines
    assert before.get_ydata().tolist() == [0.9, 0.1]
    assert (before.get_xdata() < after.get_xdata()).all()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]
    assert ax.get_ylim() == (0, 1)
    with pytest.raises(FlatlibError, match="same classes"):
        class_probabilities({"a": np.ones(2), "b": np.ones(3)}, ax)
    with pytest.raises(FlatlibError, match="one to four"):
        class_probabilities({}, ax)
