import pytest
import torch

from flatlib.curvature import GaussNewtonOperator, HessianOperator, density


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_weights_and_moments(case, kind):
    operator = kind(*case)
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
    operator = HessianOperator(*small_case)
    one = density(operator, steps=1, probes=40, seed=3)
    more = density(operator, steps=20, probes=40, seed=3)
    assert one.moment(1) == pytest.approx(more.moment(1), rel=1e-9)
    assert one.moment(1) == pytest.approx(float(operator.to_dense().trace()) / operator.shape[0], rel=0.3)


@pytest.mark.parametrize(
    ("spectrum", "probes", "nodes"),
    [([-2.0, -1.0, 0.5, 3.0, 7.0], 1, [-2.0, -1.0, 0.5, 3.0, 7.0]), ([3.0] + [0.0] * 7, 2, [0.0, 0.0, 3.0, 3.0])],
)
def test_exhausted_spaces_leave_no_ghosts(quadratic, spectrum, probes, nodes):
    found = density(HessianOperator(*quadratic(spectrum)), steps=50, probes=probes)
    torch.testing.assert_close(found.nodes, torch.tensor(nodes, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    assert found.products == len(nodes)
    assert float(found.weights.sum()) == pytest.approx(1)


def test_smooth_is_a_density(case):
    found = density(HessianOperator(*case), steps=20)
    for width in (None, 0.1):
        grid, curve = found.smooth(width=width)
        assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)
        assert float(torch.trapezoid(curve * grid, grid)) == pytest.approx(found.moment(1), abs=1e-3)
    grid, curve = found.smooth(torch.linspace(-1, 1, 7), 0.5)
    assert curve.shape == grid.shape == (7,)
