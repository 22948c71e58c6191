import pytest
import torch

from flatlib.curvature import GaussNewtonOperator, HessianOperator, density
from flatlib.errors import FlatlibError
from flatlib.losses import resolve_loss


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_weights_and_moments(case, kind):
    operator = kind(case.model, case.loss, case.data)
    H = operator.to_dense()
    found = density(operator, steps=8, probes=25)
    assert found.products == 8 * 25
    assert found.dimension == len(H)
    assert (found.weights >= 0).all()
    assert (found.nodes.diff() >= 0).all()
    for probe in range(25):
        assert float(found.weights[found.probe == probe].sum()) == pytest.approx(1 / 25)
    spectrum = torch.linalg.eigvalsh(H)
    assert found.nodes[0] > spectrum[0] - 1e-9
    assert found.nodes[-1] < spectrum[-1] + 1e-9
    for order in (1, 2, 3):
        scale = float(spectrum.abs().pow(order).mean())
        assert found.moment(order) == pytest.approx(float((spectrum**order).mean()), abs=0.3 * scale)


def test_the_first_moment_is_hutchinsons_trace(small_case):
    operator = HessianOperator(small_case.model, small_case.loss, small_case.data)
    one = density(operator, steps=1, probes=40, seed=3)
    more = density(operator, steps=20, probes=40, seed=3)
    assert one.moment(1) == pytest.approx(more.moment(1), rel=1e-9)
    assert one.moment(1) == pytest.approx(float(operator.to_dense().trace()) / operator.shape[0], rel=0.3)


def test_all_steps_find_the_whole_spectrum(quadratic):
    spectrum = [-2.0, -1.0, 0.5, 3.0, 7.0]
    found = density(HessianOperator(*quadratic(spectrum)), steps=50)
    torch.testing.assert_close(found.nodes, torch.tensor(spectrum, dtype=torch.float64))
    assert found.products == 5


def test_breakdown_leaves_no_ghosts(quadratic):
    found = density(HessianOperator(*quadratic([3.0] + [0.0] * 7)), steps=8, probes=2)
    assert found.products == 4
    torch.testing.assert_close(found.nodes, torch.tensor([0.0, 0.0, 3.0, 3.0], dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(found.weights.sum()) == pytest.approx(1)


def test_zero_hessian(quadratic):
    found = density(HessianOperator(*quadratic([0.0] * 4)))
    assert (found.nodes.tolist(), found.weights.tolist(), found.products) == ([0.0], [1.0], 1)
    grid, curve = found.smooth()
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)


def test_smooth_is_a_density(case):
    found = density(HessianOperator(case.model, case.loss, case.data), steps=20)
    for width in (None, 0.1):
        grid, curve = found.smooth(width=width)
        assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)
        assert float(torch.trapezoid(curve * grid, grid)) == pytest.approx(found.moment(1), abs=1e-3)
    grid, curve = found.smooth(torch.linspace(-1, 1, 7), 0.5)
    assert curve.shape == grid.shape == (7,)


def test_relative_errors_do_not_depend_on_the_scale_of_the_loss(small_case):
    model, (x, y) = small_case.model.float(), small_case.data
    loss = resolve_loss(small_case.loss)
    plain, tiny = (
        density(HessianOperator(model, lambda o, t, f=factor: f * loss(o, t), (x.float(), y)), steps=10)
        for factor in (1.0, 2.0**-40)
    )
    torch.testing.assert_close(tiny.nodes * 2.0**40, plain.nodes, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tiny.weights, plain.weights, rtol=1e-2, atol=1e-5)


def test_the_seed_is_the_only_randomness(small_case):
    operator = HessianOperator(small_case.model, small_case.loss, small_case.data)
    state = torch.get_rng_state()
    first, second, other = (density(operator, 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.nodes, second.nodes)
    assert not torch.equal(first.nodes, other.nodes)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"probes": 0}])
def test_says_what_is_wrong(quadratic, arguments):
    operator = HessianOperator(*quadratic([1.0, 2.0]))
    with pytest.raises(FlatlibError, match="at least 1"):
        density(operator, **arguments)
    for width in (0.0, -1.0, float("inf")):
        with pytest.raises(FlatlibError, match="must be positive"):
            density(operator).smooth(width=width)
