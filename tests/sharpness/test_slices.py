"""The loss along directions and in planes, their figures, and a bowl with gradient descent in it."""

import numpy as np
import pytest
import torch

from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.closed_form import quadratic
from flatlib.errors import FlatlibError
from flatlib.figures import landscape_contours, landscape_slices, landscape_steps
from flatlib.sharpness import loss_along, loss_in_eigenplane, loss_in_plane

pytestmark = pytest.mark.usefixtures("style")


def random_vector(case, seed=0):
    n = sum(p.numel() for p in case.model.parameters())
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_along_a_direction_of_any_length_the_bend_is_that_of_the_hessian(case):
    v = random_vector(case)
    table = loss_along(case.model, case.loss, case.data, {"v": 7 * v, "-v": -v}, radius=1e-3, points=5)
    unit = v / v.norm()
    bend = float(unit @ case.dense() @ unit)
    assert table["curvature"].to_numpy() == pytest.approx([bend] * 10, rel=1e-8)
    there, back = (table.loc[table["direction"] == name] for name in ("v", "-v"))
    assert there["loss"].to_numpy() == pytest.approx(back["loss"].to_numpy()[::-1], rel=1e-12)
    assert there["quadratic"].to_numpy() == pytest.approx(there["loss"].to_numpy(), rel=1e-7)
    assert list(table.columns) == ["direction", "curvature", "step", "loss", "quadratic"]


def test_on_a_quadratic_the_parabola_is_the_loss(request):
    model, loss, data = request.getfixturevalue("quadratic")([6.0, 2.0, 1.0])
    table = loss_along(model, loss, data, {"any": torch.tensor([1.0, 2.0, 3.0])}, radius=2.0)
    assert table["loss"].to_numpy() == pytest.approx(table["quadratic"].to_numpy(), rel=1e-12)


def test_a_plane_of_eigenvectors_is_the_eigenplane(small_case):
    data = small_case.model, small_case.loss, small_case.data
    known = loss_in_eigenplane(*data, radius=0.5, points=5)
    table = loss_in_plane(*data, known.eigenvalues.vectors, radius=0.5, points=5)
    expected = known.table()
    assert table[["step_1", "step_2"]].to_numpy() == pytest.approx(expected[["step_1", "step_2"]].to_numpy())
    assert table["loss"].to_numpy() == pytest.approx(expected["loss"].to_numpy())


def test_the_coordinates_of_a_displacement_lead_to_its_loss(small_case):
    a, b = random_vector(small_case), random_vector(small_case, seed=1)
    basis, _ = torch.linalg.qr(torch.stack([a, b], 1))
    table = loss_in_plane(small_case.model, small_case.loss, small_case.data, basis, radius=0.1, points=3)
    corner = table.set_index(["step_1", "step_2"])["loss"][0.1, -0.1]
    with torch.no_grad():
        flat = torch.nn.utils.parameters_to_vector(small_case.model.parameters()) + basis @ torch.tensor(
            [0.1, -0.1], dtype=torch.float64
        )
        torch.nn.utils.vector_to_parameters(flat, small_case.model.parameters())
        small_case.model.eval()
        x, y = small_case.data
        assert float(torch.nn.functional.cross_entropy(small_case.model(x), y)) == pytest.approx(corner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 4}, "points=4 must be odd"),
        ({"radius": 0.0}, "radius=0.0"),
        ({"directions": {"short": torch.ones(3)}}, r"short: a direction of 63 numbers.*of shape \(3,\)"),
        ({"directions": {"none": torch.zeros(63)}}, "none: .* this one is zero"),
    ],
)
def test_along_says_what_is_wrong(small_case, options, message):
    options = {"directions": {"ones": torch.ones(63)}, "radius": 1.0} | options
    with pytest.raises(FlatlibError, match=message):
        loss_along(small_case.model, small_case.loss, small_case.data, **options)


@pytest.mark.parametrize("basis", [torch.ones(63, 2), torch.eye(63)[:, :3], 2 * torch.eye(63)[:, :2]])
def test_a_plane_needs_two_orthonormal_directions(small_case, basis):
    with pytest.raises(FlatlibError, match="two directions"):
        loss_in_plane(small_case.model, small_case.loss, small_case.data, basis, radius=1.0)


def test_slices_are_named_with_their_bend_in_the_order_they_came(ax, small_case):
    hessian = HessianOperator(small_case.model, small_case.loss, small_case.data)
    directions = {"sharpest": top_eigenvalues(hessian).vectors[:, 0], "random": random_vector(small_case)}
    table = loss_along(small_case.model, small_case.loss, small_case.data, directions, radius=0.3)
    landscape_slices(table, ax)
    bends = table.groupby("direction")["curvature"].first()
    expected = [f"{name}\n$v^\\top H v$ = {bends[name]:.2g}" for name in directions]
    assert [text.get_text() for text in ax.texts] == expected
    solid = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert solid[0].get_ydata() == pytest.approx(table.loc[table["direction"] == "sharpest", "loss"].to_numpy())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Step along a direction $t$", "Training loss $L$")
    with pytest.raises(FlatlibError, match="no column direction"):
        landscape_slices(table.drop(columns="direction"), ax)
    landscape_slices(table.iloc[:0], ax)
    assert "nothing to draw" in ax.texts[-1].get_text()


def test_descent_in_a_bowl_is_what_an_optimizer_does():
    curvatures, start, rate = (5.0, 1.0), (0.3, -0.7), 0.39
    found = quadratic.gradient_descent(curvatures, start, rate, updates=6)
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=rate)
    for row in found.itertuples():
        assert x.tolist() == pytest.approx([row.step_1, row.step_2])
        optimizer.zero_grad()
        (0.5 * (torch.tensor(curvatures) * x**2).sum()).backward()
        optimizer.step()
    assert found["update"].tolist() == list(range(7))


@pytest.mark.parametrize(("share", "grows"), [(0.99, False), (1.01, True)])
def test_two_over_lambda_is_the_edge(share, grows):
    path = quadratic.gradient_descent((8.0, 1.0), (1.0, 1.0), share * 2 / 8.0, updates=50)
    assert (path["step_1"].abs().iloc[-1] > 1) == grows
    assert path["step_2"].abs().iloc[-1] < 1


def test_a_bowl_needs_two_finite_numbers():
    with pytest.raises(FlatlibError, match="curvatures="):
        quadratic.bowl([1.0])
    with pytest.raises(FlatlibError, match="start="):
        quadratic.gradient_descent([1.0, 1.0], [0.0, np.inf], 0.1, 3)


def test_steps_are_arrows_that_leave_the_landscape_as_it_is(ax):
    landscape_contours(quadratic.bowl([4.0, 1.0]), ax)
    limits, named = (ax.get_xlim(), ax.get_ylim()), len(ax.texts)
    path = quadratic.gradient_descent([4.0, 1.0], (0.3, 0.8), 0.6, updates=4).assign(path="too fast")
    landscape_steps(path, ax)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    new = ax.texts[named:]
    inside = path[["step_1", "step_2"]].abs().max(axis=1) <= 1
    assert inside.tolist() == [True, True, True, True, False]
    assert [text.get_text() for text in new] == ["", "", "", "too fast"]
    assert new[1].xy == pytest.approx(path.loc[2, ["step_1", "step_2"]].to_list())
    landscape_steps(path.assign(path=""), ax)
    assert len(ax.texts) == named + 4 + 3  # arrows only
    with pytest.raises(FlatlibError, match="no column path"):
        landscape_steps(path.drop(columns="path"), ax)
