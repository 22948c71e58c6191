"""Deflated spaces against dense matrices, and intervals of estimates whose probes a pilot chooses."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, density, frobenius, top_eigenvalues, trace
from flatlib.curvature.spectrum.deflation import basis_deflation, krylov_deflation, lanczos_deflation
from flatlib.curvature.traces.hutchinson import mean_over_probes
from flatlib.errors import FlatlibError

KINDS = {
    "lanczos": lambda operator: lanczos_deflation(operator, 0, steps=7),
    "search": lambda operator: krylov_deflation(top_eigenvalues(operator, start="random", keep_krylov=True)),
    "continued": lambda operator: krylov_deflation(top_eigenvalues(operator, tol=0.1, keep_krylov=True), 20),
    "basis": lambda operator: basis_deflation(operator, torch.randn(operator.shape[0], 5, dtype=torch.float64)),
}


# As of a trained network: some large eigenvalues, a bulk, some negative ones, and zeros.
SPECTRUM = torch.cat([30 * 0.8 ** torch.arange(12), torch.linspace(0, 2, 60) ** 2 / 2, torch.linspace(-0.5, 0, 80)])
SPECTRUM = torch.cat([SPECTRUM, torch.zeros(148)]).double()


@pytest.fixture
def trained(quadratic):
    operator = HessianOperator(*quadratic(SPECTRUM.tolist()))
    operator.matmat = operator.matvec = operator.to_dense().matmul  # a fast one: thousands of products follow
    return operator


@pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_inside_and_outside_make_the_whole(make, kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    operator = kind(model, "cross_entropy", (torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3))
    C, found = operator.to_dense(), make(operator)
    m = found.basis.shape[1]
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(m, dtype=torch.float64))
    P = torch.eye(len(C), dtype=torch.float64) - found.basis @ found.basis.T
    inside = torch.linalg.eigvalsh(found.basis.T @ C @ found.basis)
    torch.testing.assert_close(found.values, inside, rtol=1e-8, atol=1e-10)
    assert found.trace + float((P @ C @ P).trace()) == pytest.approx(float(C.trace()), rel=1e-9)
    assert found.squared_norm + float((P @ C @ P).norm() ** 2) == pytest.approx(float(C.norm() ** 2), rel=1e-9)
    v = torch.randn(len(C), dtype=torch.float64)
    torch.testing.assert_close(found.outside(v), P @ C @ P @ v)
    assert found.products == m


def test_a_search_keeps_its_space_only_on_request(small_case):
    found = top_eigenvalues(HessianOperator(*small_case))
    assert found.krylov is None
    with pytest.raises(FlatlibError, match="keep_krylov=True"):
        krylov_deflation(found)


def test_the_reduced_matrix_serves_as_well():
    """Where the examples are fewer than their pixels, the space and the probes are those of the smaller matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(600, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    operator = HessianOperator(
        model, "cross_entropy", (torch.randn(20, 600, dtype=torch.float64), torch.arange(20) % 3)
    )
    small = lanczos_deflation(operator, 0).operator
    assert small.shape[0] == operator.shape[0] - 20 * (600 - 20)
    C = small.to_dense()
    norm, spectrum = frobenius(operator), density(operator, relative_error=0.02)
    assert abs(norm.value - float(C.norm())) <= 4 * norm.standard_error
    assert norm.per_parameter.value == pytest.approx(norm.value**2 / operator.shape[0])
    assert float(spectrum.weights.sum()) == pytest.approx(1)
    assert float(spectrum.weights[spectrum.nodes == 0].sum()) >= 20 * 580 / operator.shape[0]
    root = (float(C.norm() ** 2) / operator.shape[0]) ** 0.5
    assert spectrum.moment(2) ** 0.5 == pytest.approx(root, rel=4 * spectrum.relative_error)


def test_estimated_traces_cover(trained):
    """The number of probes is chosen from the first ones: so it varies, and the intervals still hold the trace."""
    found = [trace(trained, relative_error=0.01, seed=seed) for seed in range(150)]
    true = float(SPECTRUM.sum())
    covered = sum(abs(one.value - true) <= 1.96 * one.standard_error for one in found) / 150
    assert 0.9 <= covered <= 0.995
    assert len({one.products for one in found}) > 5
    reached = [one.standard_error / one.value for one in found if one.products < 114]
    assert sum(reached) / len(reached) == pytest.approx(0.01, rel=0.15)
    assert max(reached) < 0.02


def test_deflation_saves_probes(trained):
    deflated, plain = trace(trained, relative_error=1e-9), trace(trained, probes=100)
    assert (deflated.products, plain.products) == (114, 100)
    assert deflated.standard_error < 0.5 * plain.standard_error


@pytest.mark.parametrize("degrees", [1, 20, 1000])
@pytest.mark.parametrize("wanted", [0.02, 0.1])
def test_two_stage_intervals_cover(degrees, wanted):
    """Of samples as skewed as squares: one degree of freedom is the worst case, a single eigenvalue."""
    random = torch.Generator().manual_seed(degrees)
    anything = SimpleNamespace(shape=(1, 1), device="cpu", torch_dtype=torch.float64)

    def sample(z):
        return torch.randn(degrees, z.shape[1], generator=random, dtype=torch.float64).square().mean(0)

    def estimate():
        return mean_over_probes(anything, sample, torch.Generator().manual_seed(0), None, lambda mean: wanted * mean)

    found = [estimate() for _ in range(600)]
    covered = sum(abs(mean - 1) <= 1.96 * error for mean, error, _ in found) / 600
    assert 0.92 <= covered <= 0.99
    assert all(8 <= number <= 100 for *_, number in found)
    assert sum(mean for mean, *_ in found) / 600 == pytest.approx(1, abs=0.02)


def test_deflated_density_counts_eigenvalues(trained):
    """Up to two of them where a space of few dimensions shows each, and roughly in the bulk."""
    found = [density(trained, seed=seed) for seed in range(30)]
    for one in found:
        assert (one.weights[one.probe == -1] == 1 / 300).all()
        assert float(one.weights.sum()) == pytest.approx(1)
        assert one.products == 12 + 10 * (int(one.probe.max()) + 1)
    for bound, allowed in ((5.0, 2.0), (1.0, 6.0), (-0.1, 30.0)):
        counted = [300 * float(one.weights[one.nodes > bound].sum()) for one in found]
        assert sum(counted) / 30 == pytest.approx(int((bound < SPECTRUM).sum()), abs=allowed)


def test_density_errors_cover(trained):
    root = float(SPECTRUM.square().mean()) ** 0.5

    def errors(**how):
        found = [density(trained, seed=seed, **how) for seed in range(100)]
        return torch.tensor([(one.moment(2) ** 0.5 / root - 1, one.relative_error) for one in found]).T

    coarse, of_coarse = errors()
    fine, of_fine = errors(relative_error=0.01)
    plain, of_plain = errors(steps=22)
    for off, error in ((coarse, of_coarse), (fine, of_fine), (plain, of_plain)):
        assert int((off.abs() <= 1.96 * error).sum()) >= 90
        assert off.square().mean().sqrt() > 0.4 * error.mean()  # and is not much too large
    assert coarse.norm() < 0.3 * plain.norm()
    assert of_fine.mean() < 0.7 * of_coarse.mean()
