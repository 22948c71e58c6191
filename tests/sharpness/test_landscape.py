import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.figures import landscape_contours, landscape_lines
from flatlib.sharpness import loss_along_eigenvectors, loss_in_eigenplane
from flatlib.sharpness.perturbed_loss import PerturbedLoss

SPECTRUM = [6.0, 2.0, 1.0, 0.5]


pytestmark = pytest.mark.usefixtures("style")


def test_lines_of_a_quadratic_are_its_parabolas(quadratic):
    model, loss, data = quadratic(SPECTRUM)
    found = loss_along_eigenvectors(model, loss, data, k=2, radius=3.0, points=7, tol=1e-10)
    assert found.steps == pytest.approx([-3, -2, -1, 0, 1, 2, 3])
    table = found.table()
    assert table["loss"].to_numpy() == pytest.approx(table["quadratic"].to_numpy(), rel=1e-9)
    assert table["eigenvalue"].unique() == pytest.approx([6.0, 2.0])
    assert list(table.columns) == ["direction", "eigenvalue", "step", "loss", "quadratic"]
    assert (found.losses[:, 4] >= found.losses[:, 2]).all()  # uphill towards positive steps
    assert (found.slopes >= 0).all()


def test_default_radius_doubles_the_loss_of_a_minimum(quadratic):
    model, loss, data = quadratic([6.0, 2.0])
    with torch.no_grad():
        model.weight.zero_()
    found = loss_along_eigenvectors(model, lambda output, target: loss(output, target) + 0.3, data, points=3)
    assert found.losses[0] == pytest.approx([0.6, 0.3, 0.6])


def test_a_plane_holds_its_lines_and_the_loss_elsewhere(case):
    plane = loss_in_eigenplane(case.model, case.loss, case.data, radius=0.5, points=5)
    lines = loss_along_eigenvectors(case.model, case.loss, case.data, k=2, radius=0.5, points=5)
    assert plane.losses[:, 2] == pytest.approx(lines.losses[0])
    assert plane.losses[2] == pytest.approx(lines.losses[1])
    around = PerturbedLoss(HessianOperator(case.model, case.loss, case.data))
    first, second = plane.eigenvalues.vectors.T
    assert plane.losses[4, 1] == pytest.approx(around.loss(0.5 * first - 0.25 * second))
    table = plane.table().set_index(["step_1", "step_2"])["loss"]
    assert table[0.5, -0.25] == plane.losses[4, 1]
    assert len(table) == 25


def test_surroundings_agree_with_the_operator(case):
    operator = HessianOperator(case.model, case.loss, case.data, chunk_size=9)
    around = PerturbedLoss(operator)
    loss, gradient = around.loss_and_gradient()
    assert loss == pytest.approx(around.loss())
    torch.testing.assert_close(gradient, operator.gradient())
    v = torch.randn(len(gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = (around.loss_and_gradient(1e-5 * v)[1] - around.loss_and_gradient(-1e-5 * v)[1]) / 2e-5
    torch.testing.assert_close(difference, operator.matvec(v), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 4}, "points=4 must be odd"),
        ({"points": 1}, "points=1 must be odd"),
        ({"radius": 0.0}, "radius=0.0"),
        ({"k": 0}, "k=0 eigenvalues"),
    ],
)
def test_says_what_is_wrong(small_case, arguments, message):
    with pytest.raises(FlatlibError, match=message):
        loss_along_eigenvectors(small_case.model, small_case.loss, small_case.data, **arguments)


def test_no_default_radius_without_a_positive_eigenvalue(quadratic):
    with pytest.raises(FlatlibError, match="pass a radius"):
        loss_in_eigenplane(*quadratic([-1.0, -2.0]))


def lines_table():
    steps = np.linspace(-1, 1, 5)
    parts = [
        pd.DataFrame({"direction": j, "eigenvalue": h, "step": steps, "loss": 1 + h * steps**4, "quadratic": 1.0})
        for j, h in ((1, 8.0), (2, 3.0))
    ]
    return pd.concat(parts, ignore_index=True)


def plane_table(span=2.0):
    first, second = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9), indexing="ij")
    loss = 0.01 + span * (first**2 + 0.1 * second**2)
    return pd.DataFrame({"step_1": first.ravel(), "step_2": second.ravel(), "loss": loss.ravel()})


DRAW = {landscape_lines: lines_table, landscape_contours: plane_table}


@pytest.mark.parametrize("draw", DRAW)
def test_figures_are_the_same_bytes_and_say_what_is_missing(draw, ax):
    def svg():
        figure, axes = plt.subplots()
        draw(DRAW[draw](), axes)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert svg() == svg()
    with pytest.raises(FlatlibError, match="no column loss"):
        draw(DRAW[draw]().drop(columns="loss"), ax)
    draw(DRAW[draw]().iloc[:0], ax)
    assert [text for text in ax.texts if "nothing to draw" in text.get_text()]


def test_lines_are_drawn_with_their_parabolas_and_named(ax):
    landscape_lines(lines_table(), ax)
    solid = [line for line in ax.lines if line.get_linestyle() == "-"]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert solid[0].get_ydata() == pytest.approx(1 + 8 * np.linspace(-1, 1, 5) ** 4)
    assert len(dashed) == 2
    assert {text.get_text() for text in ax.texts} == {r"$\lambda_{1}$ = 8", r"$\lambda_{2}$ = 3"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Step along eigenvector $t$", "Training loss $L$")


def test_contours_are_even_in_the_logarithm_where_the_loss_spans_a_decade(ax):
    landscape_contours(plane_table(), ax)
    (drawn,) = ax.collections
    assert np.ptp(np.diff(np.log(drawn.levels))) < 1e-9
    assert ax.lines[-1].get_xydata().tolist() == [[0, 0]]
    other = plt.subplots()[1]
    landscape_contours(plane_table(span=0.005), other)
    assert np.ptp(np.diff(other.collections[0].levels)) < 1e-9


def test_contours_need_a_full_grid_with_some_relief(ax):
    with pytest.raises(FlatlibError, match="full grid"):
        landscape_contours(plane_table().iloc[:-1], ax)
    landscape_contours(plane_table(span=0.0), ax)
    assert "nothing to draw: the loss is 0.01 everywhere" in {text.get_text() for text in ax.texts}
