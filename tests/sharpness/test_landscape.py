"""The loss along directions and in planes, their figures, and a bowl with gradient descent in it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from conftest import Net, assert_untouched, snapshot
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.closed_form import quadratic as bowls
from flatlib.errors import FlatlibError, NotFinite
from flatlib.figures import landscape_contours, landscape_lines, landscape_slices, landscape_steps
from flatlib.sharpness import loss_along, loss_along_eigenvectors, loss_in_plane
from flatlib.sharpness.perturbed_loss import PerturbedLoss

pytestmark = pytest.mark.usefixtures("style")


def random_vector(case, seed=0):
    n = sum(p.numel() for p in case.model.parameters())
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_perturbed_loss_agrees_with_the_operator(case):
    operator = HessianOperator(*case, chunk_size=9)
    around = PerturbedLoss(operator)
    loss, gradient = around.loss_and_gradient()
    assert loss == pytest.approx(around.loss())
    torch.testing.assert_close(gradient, operator.gradient())
    v = random_vector(case)
    difference = (around.loss_and_gradient(1e-5 * v)[1] - around.loss_and_gradient(-1e-5 * v)[1]) / 2e-5
    torch.testing.assert_close(difference, operator.matvec(v), rtol=1e-6, atol=1e-8)


def test_quadratic_is_its_parabolas(quadratic):
    problem = quadratic([6.0, 2.0, 1.0, 0.5])
    found = loss_along_eigenvectors(*problem, k=2, radius=3.0, points=7, tol=1e-10)
    assert found.steps == pytest.approx([-3, -2, -1, 0, 1, 2, 3])
    table = found.table()
    assert table["eigenvalue"].unique() == pytest.approx([6.0, 2.0])
    assert list(table.columns) == ["direction", "eigenvalue", "step", "loss", "quadratic"]
    assert (found.losses[:, 4] >= found.losses[:, 2]).all()  # uphill towards positive steps
    assert (found.slopes >= 0).all()
    for lines in (table, loss_along(*problem, {"any": torch.tensor([1.0, 2.0, 3.0, 4.0])}, radius=2.0)):
        assert lines["loss"].to_numpy() == pytest.approx(lines["quadratic"].to_numpy(), rel=1e-9)


def test_default_radius_doubles_the_loss(quadratic):
    model, loss, data = quadratic([6.0, 2.0])
    with torch.no_grad():
        model.weight.zero_()
    found = loss_along_eigenvectors(model, lambda output, target: loss(output, target) + 0.3, data, points=3)
    assert found.losses[0] == pytest.approx([0.6, 0.3, 0.6])
    with pytest.raises(FlatlibError, match="pass a radius"):
        loss_along_eigenvectors(*quadratic([-1.0, -2.0]))


def test_curvature_along_any_direction(case):
    v = random_vector(case)
    table = loss_along(*case, {"v": 7 * v, "-v": -v}, radius=1e-3, points=5)
    unit = v / v.norm()
    assert table["curvature"].to_numpy() == pytest.approx([float(unit @ case.dense() @ unit)] * 10, rel=1e-8)
    there, back = (table.loc[table["direction"] == name] for name in ("v", "-v"))
    assert there["loss"].to_numpy() == pytest.approx(back["loss"].to_numpy()[::-1], rel=1e-12)
    assert there["quadratic"].to_numpy() == pytest.approx(there["loss"].to_numpy(), rel=1e-7)
    assert list(table.columns) == ["direction", "curvature", "step", "loss", "quadratic"]


def test_plane_of_the_top_eigenvectors(case):
    """It holds the lines along both of them, and the loss elsewhere."""
    operator = HessianOperator(*case)
    basis = top_eigenvalues(operator, 2).vectors
    plane = loss_in_plane(*case, basis, radius=0.5, points=5)
    grid = plane.pivot(index="step_1", columns="step_2", values="loss").to_numpy()
    lines = loss_along_eigenvectors(*case, k=2, radius=0.5, points=5)
    for j, losses in enumerate((grid[:, 2], grid[2])):
        up = 1 if lines.eigenvalues.vectors[:, j] @ basis[:, j] > 0 else -1
        assert losses[::up] == pytest.approx(lines.losses[j])
    assert grid[4, 1] == pytest.approx(PerturbedLoss(operator).loss(0.5 * basis[:, 0] - 0.25 * basis[:, 1]))


def test_plane_of_any_directions(small_case):
    model, loss, (x, y) = small_case
    basis, _ = torch.linalg.qr(torch.stack([random_vector(small_case), random_vector(small_case, seed=1)], 1))
    table = loss_in_plane(model, loss, (x, y), basis, radius=0.1, points=3)
    moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() + 0.1 * (basis[:, 0] - basis[:, 1])
    torch.nn.utils.vector_to_parameters(moved, model.parameters())
    expected = torch.nn.functional.cross_entropy(model.eval()(x), y).item()
    assert table.set_index(["step_1", "step_2"])["loss"][0.1, -0.1] == pytest.approx(expected)


def cliff(start=(1.0, 1.0)):
    """Return a float32 model, loss and data: exp(exp(3 a)) b, whose square overflows where a exceeds 1.26."""
    model = Net(lambda net, x: torch.exp(torch.exp(3 * net.w[0])) * x * net.w[1], w=nn.Parameter(torch.tensor(start)))
    return model, "mse", (torch.ones(3, 1), torch.zeros(3, 1))


def cliff_loss(a, b=1.0):
    model, _, (x, y) = cliff((a, b))
    loss = nn.functional.mse_loss(model(x), y).item()
    return loss if np.isfinite(loss) else np.nan


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_points_that_overflow_are_nan_and_the_others_stay(chunk_size):
    model, loss, data = cliff()
    before = snapshot(model)
    kept = {"radius": 0.5, "points": 5, "chunk_size": chunk_size}
    steps = [-0.5, -0.25, 0.0, 0.25, 0.5]
    expected = [cliff_loss(1 + t) for t in steps]
    assert np.isnan(expected).tolist() == [False, False, False, False, True]
    table = loss_along(model, loss, data, {"a": torch.tensor([1.0, 0.0])}, **kept)
    np.testing.assert_allclose(table["loss"], expected)
    assert np.isfinite(table["quadratic"]).all()
    lines = loss_along_eigenvectors(model, loss, data, **kept)
    v = lines.eigenvalues.vectors[:, 0]
    np.testing.assert_allclose(
        lines.losses[0], [cliff_loss(*(torch.ones(2) + t * v).tolist()) for t in steps], rtol=1e-3
    )
    assert np.isnan(lines.losses[0, -1])
    plane = loss_in_plane(model, loss, data, torch.eye(2), **kept)
    np.testing.assert_allclose(plane["loss"], [cliff_loss(1 + s, 1 + t) for s in steps for t in steps])
    assert_untouched(model, before)


def test_the_middle_must_be_finite():
    """Wherever else the loss is."""
    problem = cliff((2.0, 1.0))
    for call in (
        lambda: loss_along(*problem, {"a": torch.tensor([1.0, 0.0])}, radius=1.9, points=3),
        lambda: loss_along_eigenvectors(*problem, radius=1.9, points=3),
        lambda: loss_in_plane(*problem, torch.eye(2), radius=1.9, points=3),
    ):
        with pytest.raises(NotFinite):
            call()
    steep = Net(lambda net, x: (1e30 * net.w).square().sum() * x, w=nn.Parameter(torch.zeros(2)))
    with pytest.raises(NotFinite, match="any: the curvature along it is"):  # 2e60, in float32
        loss_along(
            steep, lambda output, _: output.mean(), (torch.ones(2, 1), torch.zeros(2)), {"any": torch.ones(2)}, radius=1
        )


def test_losses_near_the_largest_number(quadratic):
    model, loss, data = quadratic([6.0, 2.0])
    found = loss_along_eigenvectors(model, lambda output, target: loss(output, target) + 1.7e308, data, points=3)
    assert found.steps[2] == pytest.approx(np.sqrt(1.7e308 / 3.0))
    assert found.losses[0] == pytest.approx([np.nan, 1.7e308, np.nan], nan_ok=True)
    assert found.table()["quadratic"].tolist() == [np.inf, 1.7e308, np.inf]


def test_steps_are_symmetric_about_zero(small_case):
    steps = loss_along(*small_case, {"v": random_vector(small_case)}, radius=0.3, points=99)["step"].to_numpy()
    assert (steps == -steps[::-1]).all()
    assert (steps[0], steps[49], steps[98]) == (-0.3, 0.0, 0.3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_directions_of_any_scale_become_unit_vectors(scale):
    model, loss, data = nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1))
    table = loss_along(model, loss, data, {"v": scale * torch.ones(2)}, radius=1.0, points=3)
    assert table["curvature"].to_numpy() == pytest.approx([1.0] * 3)  # the Hessian is the unit matrix
    assert table["loss"].to_numpy() == pytest.approx(table["quadratic"].to_numpy())


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (loss_along_eigenvectors, {"points": 4}, "points=4 must be odd"),
        (loss_along_eigenvectors, {"radius": 0.0}, "radius=0.0"),
        (loss_along_eigenvectors, {"k": 0}, "k=0"),
        (loss_along, {"points": 1}, "points=1 must be odd"),
        (loss_along, {"radius": torch.inf}, "radius=inf"),
        (loss_along, {"directions": {"short": torch.ones(3)}}, r"short: .*\(3,\)"),
        (loss_along, {"directions": {"none": torch.zeros(63)}}, "none: .* zero"),
        (loss_along, {"directions": {"broken": torch.full((63,), torch.nan)}}, "broken: .* not finite"),
        (loss_along, {"unit": "metres"}, "unit: unknown name 'metres'; allowed: weights, direction"),
        (loss_in_plane, {"basis": torch.eye(63)[:, :2], "unit": "weight"}, "unit: unknown name"),
        (loss_in_plane, {"basis": torch.ones(63, 2)}, "right angle"),
        (loss_in_plane, {"basis": 2 * torch.eye(63)[:, :2]}, "unit vectors"),
        (loss_in_plane, {"basis": torch.eye(63)[:, :3]}, r"\(63, 3\)"),
    ],
)
def test_bad_options_are_named(small_case, call, options, message):
    defaults = {loss_along: {"directions": {"ones": torch.ones(63)}}}.get(call, {})
    with pytest.raises(FlatlibError, match=message):
        call(*small_case, **({"radius": 1.0} | defaults | options))


def lines_table():
    steps = np.linspace(-1, 1, 5)
    parts = [
        pd.DataFrame({"direction": j, "eigenvalue": h, "step": steps, "loss": 1 + h * steps**4, "quadratic": 1.0})
        for j, h in ((1, 8.0), (2, 3.0))
    ]
    return pd.concat(parts, ignore_index=True)


def slices_table():
    return lines_table().replace({"direction": {1: "sharp", 2: "flat"}}).rename(columns={"eigenvalue": "curvature"})


def plane_table(span=2.0):
    first, second = (side.ravel() for side in np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)))
    return pd.DataFrame({"step_1": first, "step_2": second, "loss": 0.01 + span * (first**2 + 0.1 * second**2)})


@pytest.mark.parametrize(
    ("draw", "table", "names", "along"),
    [
        (landscape_lines, lines_table, [r"$\lambda_{1}$ = 8", r"$\lambda_{2}$ = 3"], "eigenvector"),
        (landscape_slices, slices_table, ["sharp\n$v^\\top H v$ = 8", "flat\n$v^\\top H v$ = 3"], "a direction"),
    ],
)
def test_lines_are_named_beside_parabolas(draw, table, names, along, ax):
    draw(table(), ax)
    solid, dashed = ([line for line in ax.lines if line.get_linestyle() == style] for style in ("-", "--"))
    assert solid[0].get_ydata() == pytest.approx(1 + 8 * np.linspace(-1, 1, 5) ** 4)
    assert len(dashed) == 2
    assert [text.get_text() for text in ax.texts] == names  # in the order of the table
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"Step along {along} $t$", "Training loss $L$")


def test_contours_follow_the_loss(ax):
    """Even in the logarithm where the loss spans a decade."""
    landscape_contours(plane_table(), ax)
    (drawn,) = ax.collections
    assert np.ptp(np.diff(np.log(drawn.levels))) < 1e-9
    assert ax.lines[-1].get_xydata().tolist() == [[0, 0]]
    other = plt.subplots()[1]
    landscape_contours(plane_table(span=0.005), other)
    assert np.ptp(np.diff(other.collections[0].levels)) < 1e-9
    landscape_contours(plane_table(span=0.0), ax)
    assert any("everywhere" in text.get_text() for text in ax.texts)
    with pytest.raises(FlatlibError, match="full grid"):
        landscape_contours(plane_table().iloc[:-1], ax)


@pytest.mark.parametrize("draw", [landscape_lines, landscape_slices])
@pytest.mark.parametrize("gap", [np.nan, np.inf, 1.7e308])
def test_lines_have_gaps_where_the_loss_is_not_finite(draw, gap, ax):
    table = lines_table() if draw is landscape_lines else slices_table()
    broken = table.assign(loss=table["loss"].where(table["step"] < 1, gap))
    broken.loc[1, "loss"] = gap
    draw(broken, ax)
    ax.figure.canvas.draw()
    solid = [line for line in ax.lines if line.get_linestyle() == "-"]
    assert np.isnan(solid[0].get_ydata()).tolist() == [False, True, False, False, True]
    assert solid[0].get_markevery() == [3]
    assert ax.texts[0].xy == pytest.approx((0.5, 1.5)), "the label stands at the last finite point"
    assert ax.get_ylim()[1] < 20


def test_contours_mark_points_that_are_not_finite(ax):
    table = plane_table()
    beyond = table["step_1"] == 1
    landscape_contours(table.assign(loss=table["loss"].where(~beyond, np.inf)), ax)
    ax.figure.canvas.draw()
    crosses, network = ax.lines
    assert crosses.get_xydata().tolist() == table.loc[beyond, ["step_1", "step_2"]].to_numpy().tolist()
    assert network.get_xydata().tolist() == [[0, 0]]
    inside = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    assert inside[:, 0].max() <= 0.75
    landscape_contours(table.assign(loss=np.nan), plt.subplots()[1])  # a placeholder


def test_descent_is_that_of_an_optimizer():
    curvatures, start, rate = (5.0, 1.0), (0.3, -0.7), 0.39
    found = bowls.gradient_descent(curvatures, start, rate, updates=6)
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
    path = bowls.gradient_descent((8.0, 1.0), (1.0, 1.0), share * 2 / 8.0, updates=50)
    assert (path["step_1"].abs().iloc[-1] > 1) == grows
    assert path["step_2"].abs().iloc[-1] < 1


def test_bowls_need_two_finite_numbers():
    with pytest.raises(FlatlibError, match="curvatures="):
        bowls.bowl([1.0])
    with pytest.raises(FlatlibError, match="start="):
        bowls.gradient_descent([1.0, 1.0], [0.0, np.inf], 0.1, 3)


def test_steps_keep_the_landscape(ax):
    landscape_contours(bowls.bowl([4.0, 1.0]), ax)
    limits, named = (ax.get_xlim(), ax.get_ylim()), len(ax.texts)
    path = bowls.gradient_descent([4.0, 1.0], (0.3, 0.8), 0.6, updates=4).assign(path="too fast")
    landscape_steps(path, ax)
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    new = ax.texts[named:]
    inside = path[["step_1", "step_2"]].abs().max(axis=1) <= 1
    assert inside.tolist() == [True, True, True, True, False]
    assert [text.get_text() for text in new] == ["", "", "", "too fast"]
    assert new[1].xy == pytest.approx(path.loc[2, ["step_1", "step_2"]].to_list())
    landscape_steps(path.assign(path=""), ax)
    assert len(ax.texts) == named + 4 + 3  # arrows only
