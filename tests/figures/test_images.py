"""Matrices, images, probabilities and spectra by the data they draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from flatlib.errors import FlatlibError
from flatlib.figures import class_probabilities, curvature_matrix, image, image_direction, spectral_density, spectrum
from flatlib.figures.images import SIGNED

pytestmark = pytest.mark.usefixtures("style")
MATRIX = np.array([[4.0, -1.0], [-1.0, 0.0]])


def test_matrix_entries_have_signed_colours(ax):
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


def test_images_are_ink_and_directions_signed(ax):
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


def test_density_has_probes_mean_and_outliers(ax):
    grid = np.linspace(-1, 5, 7)
    parts = [pd.DataFrame({"probe": i, "eigenvalue": grid, "density": np.exp(-(grid**2)) * i}) for i in (1, 3)]
    spectral_density(pd.concat(parts), ax, outliers=[3.0, 4.0])
    first, second, mean, marks = ax.lines
    assert first.get_label() == second.get_label() == "_probe"
    assert ax.get_ylim()[0] == pytest.approx(2e-6)
    assert mean.get_ydata() == pytest.approx((2 * np.exp(-(grid**2))).clip(2e-6))
    assert marks.get_xdata().tolist() == [3.0, 4.0]
    assert ax.get_yscale() == "log"
    spectral_density(pd.concat(parts).assign(density=0.0), ax)
    assert "zero everywhere" in ax.texts[0].get_text()


RUN = {"lambda_max": 7.0, "density_node_00": -1.0, "density_weight_00": 0.3, "density_node_01": 5.0}
RUN |= {"density_weight_01": 0.7, "density_node_02": np.nan, "density_weight_02": np.nan}


def stems(ax) -> list[list[float]]:
    return [[*segment[:, 0], *segment[:, 1]] for segment in ax.collections[0].get_segments()]


def test_spectrum_has_a_stem_per_node(ax):
    spectrum(pd.Series(RUN), ax)
    np.testing.assert_allclose(stems(ax), [[-1, -1, 1e-30, 0.3], [5, 5, 1e-30, 0.7]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "log")
    assert ax.get_ylim() == pytest.approx((0.1, 1.05))
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"Eigenvalue $\lambda$", "Share of the spectrum")
    at_loss = {"density_node_00_at_loss": 9.0, "density_weight_00_at_loss": 1.0}  # a measure of its own
    spectrum(pd.Series(RUN | at_loss | {"density_weight_01": 0.0}), other := ax.figure.subplots())
    assert [stem[0] for stem in stems(other)] == [-1], "neither of another measure nor without a weight"


@pytest.mark.parametrize("weights", [(0.3, 0.003), (0.003, 0.3), (1e-6, 1e-7)])
def test_spectra_share_an_axis(weights):
    left, right = plt.subplots(1, 2, sharey=True)[1]
    for ax, weight in zip((left, right), weights, strict=True):
        spectrum(pd.Series(RUN | {"density_weight_00": weight}), ax)
    assert left.get_ylim() == right.get_ylim() == pytest.approx((min(weights) / 3, 1.05))


def test_run_without_spectrum(ax):
    spectrum(pd.Series(dict.fromkeys(RUN, np.nan)), ax)
    assert "no spectrum" in ax.texts[0].get_text()
    with pytest.raises(FlatlibError, match="no column density_node_00"):
        spectrum(pd.Series({"lambda_max": 7.0}), ax)
