"""Guarantees of every estimate: relative errors, zero matrices, seeds, and one line for a bad argument."""

import pytest
import torch
import torch.nn.functional as F

from flatlib.curvature import HessianOperator, density, frobenius, top_eigenvalues, trace
from flatlib.errors import FlatlibError


def numbers_of(*estimates):
    """Every value, and the errors of those that have one."""
    values = [one.value for one in estimates] + [one.standard_error for one in estimates if not one.exact]
    return torch.tensor(values, dtype=torch.float64)


NUMBERS = {  # in units of the loss, with the relative and the absolute tolerance
    "values": (lambda H, seed: top_eigenvalues(H, which="both", seed=seed).values, 1e-6, 0),
    "residuals": (lambda H, seed: top_eigenvalues(H, which="both", seed=seed).residuals, 1e-2, 1e-7),
    "nodes": (lambda H, seed: density(H, 10, seed=seed).nodes, 1e-3, 1e-5),
    "trace": (lambda H, seed: numbers_of(trace(H, probes=100, seed=seed)), 1e-3, 0),
    "norm": (lambda H, seed: numbers_of(frobenius(H), frobenius(H, probes=10, seed=seed)), 1e-3, 0),
}


@pytest.fixture(params=NUMBERS)
def numbers(request):
    return NUMBERS[request.param]


def test_errors_are_relative(small_case, numbers):
    measure, rtol, atol = numbers
    model, (x, y) = small_case.model.float(), small_case.data
    found = {
        factor: measure(HessianOperator(model, lambda o, t, f=factor: f * F.cross_entropy(o, t), (x.float(), y)), 0)
        for factor in (1.0, 2.0**-40, 2.0**40)
    }
    for factor, values in found.items():
        torch.testing.assert_close(values / factor, found[1.0], rtol=rtol, atol=atol)


def test_only_the_seed_is_random(small_case, numbers):
    operator = HessianOperator(*small_case)
    state = torch.get_rng_state()
    first, second, other = (numbers[0](operator, seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [4, 150])
def test_zero_hessian(quadratic, n):
    H = HessianOperator(*quadratic([0.0] * n))
    top = top_eigenvalues(H, 2, which="both")
    assert (top.values.tolist(), top.residuals.tolist(), top.converged) == ([0.0] * 4, [0.0] * 4, True)
    assert top.errors.tolist() == [0.0] * 4
    assert top.limits.abs().max() < 1e-200
    torch.testing.assert_close(top.vectors[:, :2].T @ top.vectors[:, :2], torch.eye(2, dtype=torch.float64))
    sum_, norm, spectrum = trace(H), frobenius(H), density(H)
    assert (sum_.value, sum_.standard_error, sum_.exact) == (0.0, 0.0, False)
    assert (norm.value, norm.standard_error, norm.per_parameter.value) == (0.0, 0.0, 0.0)
    assert (spectrum.nodes.tolist(), float(spectrum.weights.sum()), spectrum.products) == ([0.0, 0.0], 1.0, 2)
    assert spectrum.relative_error == 0.0
    grid, curve = spectrum.smooth()
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "measure",
    [top_eigenvalues, lambda H: top_eigenvalues(H, engine="pyhessian"), trace, density, frobenius],
    ids=["lanczos", "pyhessian", "trace", "density", "frobenius"],
)
@pytest.mark.parametrize("n", [3, 150])
def test_infinite_products_are_refused(quadratic, measure, n):
    model, loss, data = quadratic([1.0] * (n - 1) + [1e200])
    model.weight.data.zero_()
    with pytest.raises(FlatlibError, match="not finite"):
        measure(HessianOperator(model, lambda o, t: 1e200 * loss(o, t), data))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda H: top_eigenvalues(H, 5), "dimension 3"),
        (lambda H: top_eigenvalues(H, 0), "k=0"),
        (lambda H: top_eigenvalues(H, which="top"), "largest, smallest, both"),
        (lambda H: top_eigenvalues(H, engine="arpack"), "lanczos, pyhessian"),
        (lambda H: top_eigenvalues(H, tol=0.0), "tol=0.0"),
        (lambda H: top_eigenvalues(H, 2, max_products=1), "max_products=1"),
        (lambda H: top_eigenvalues(H, start=torch.ones(4)), "start must be 3"),
        (lambda H: top_eigenvalues(H, start="warm"), 'start="warm" is unknown'),
        (lambda H: top_eigenvalues(H, certify="all"), "eigenvalue, end"),
        (lambda H: top_eigenvalues(H, engine="pyhessian", certify="end"), "has no limits"),
        (lambda H: trace(H, probes=1), "at least 2"),
        (lambda H: trace(H, relative_error=0.0), "must be positive"),
        (lambda H: frobenius(H, relative_error=float("nan")), "must be positive"),
        (lambda H: density(H, relative_error=-1.0), "must be positive"),
        (lambda H: density(H, steps=0), "at least 1"),
        (lambda H: density(H, probes=0), "at least 1"),
        (lambda H: density(H).smooth(width=0.0), "must be positive"),
        (lambda H: density(H).smooth(width=-1.0), "must be positive"),
        (lambda H: density(H).smooth(width=float("inf")), "must be positive"),
        (lambda H: frobenius(H, probes=1), "at least 2"),
        (lambda H: frobenius(H, basis=torch.ones(2, 2)), "columns of 3 numbers"),
        (lambda H: frobenius(H, basis=torch.ones(3)), "columns of 3 numbers"),
        (lambda H: frobenius(H, basis=torch.ones(3, 0)), "columns of 3 numbers"),
    ],
)
def test_bad_arguments_give_one_line(quadratic, measure, message):
    with pytest.raises(FlatlibError, match=message) as error:
        measure(HessianOperator(*quadratic([1.0, 2.0, 3.0])))
    assert "\n" not in str(error.value)


def test_trace_errors_cover(quadratic):
    """Two standard errors hold the trace in about 95 of 100 seeds: here in at least 90 and at most 99 % of 100."""
    spectrum = torch.linspace(-1, 5, 12).tolist()
    operator = HessianOperator(*quadratic(spectrum))
    found = [trace(operator, probes=40, seed=seed) for seed in range(100)]
    covered = sum(abs(one.value - sum(spectrum)) <= 2 * one.standard_error for one in found) / 100
    assert 0.9 <= covered <= 0.99
    assert found[0].products == 40
