"""The PyHessian engine against the dense spectrum; and, for each trap that it avoids, PyHessian itself caught in it."""

import copy
import warnings

import numpy as np
import pyhessian
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import assert_untouched, snapshot
from flatlib.curvature import HessianOperator, density, from_dict_batches, per_layer, top_eigenvalues, trace
from flatlib.curvature.spectrum.pyhessian import PyHessianProducts, power_iteration
from flatlib.errors import FlatlibError

ENGINES = ("lanczos", "pyhessian")
CLOSE = [1.0, *torch.linspace(0.5, 0.985, 40).tolist()]


def bare(model, loss, data=None, **options):
    """PyHessian as its documentation calls it, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyhessian.hessian(model, loss, data=data, **{"cuda": False} | options)


def bare_eigenvalue(model, loss, data, seed=0):
    """PyHessian's value for a copy of the model."""
    torch.manual_seed(seed)
    return bare(copy.deepcopy(model), loss, data).eigenvalues()[0][0]


def wrapped(model, loss, data, **arguments):
    return top_eigenvalues(HessianOperator(model, loss, data), engine="pyhessian", **arguments)


@pytest.fixture
def single(small_case):
    """A network in single precision, its loss and its data."""
    model, _, (x, y) = small_case
    return model.float(), F.cross_entropy, (x.float(), y)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_agrees_with_the_dense_spectrum(model_case, which):
    spectrum = torch.linalg.eigvalsh(model_case.dense())
    operator = HessianOperator(*model_case, chunk_size=12)
    result = top_eigenvalues(operator, which=which, engine="pyhessian")
    torch.testing.assert_close(result.values, spectrum[[-1 if which == "largest" else 0]], rtol=1e-4, atol=0)
    assert result.converged
    residuals = torch.linalg.vector_norm(operator.matmat(result.vectors) - result.vectors * result.values, dim=0)
    torch.testing.assert_close(residuals, result.residuals, rtol=1e-3, atol=1e-12)


def test_train_mode_and_warm_starts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = model[1].running_mean.clone()
    operator = HessianOperator(model, "mse", (torch.randn(9, 4), torch.arange(9) % 2), batch_norm="train")
    lanczos, power = (top_eigenvalues(operator, 2, engine=engine) for engine in ("lanczos", "pyhessian"))
    torch.testing.assert_close(power.values, lanczos.values, rtol=1e-3, atol=0)
    dense = torch.linalg.eigvalsh(operator.to_dense().double())
    torch.testing.assert_close(lanczos.values, dense[[-1, -2]], rtol=1e-4, atol=0)
    assert power.products > lanczos.products
    warm = top_eigenvalues(operator, engine="pyhessian", start=lanczos.vectors[:, 0])
    assert warm.products < power.products
    assert torch.equal(model[1].running_mean, before)


def test_restricts_to_a_block(small_case):
    operator = HessianOperator(*small_case, parameters="3.*")
    result = top_eigenvalues(operator, engine="pyhessian", tol=1e-4)
    assert result.values.item() == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense())[-1]), rel=1e-6)


def test_wrong_end_never_converges(quadratic):
    model, loss, data = quadratic([2.0, -3.0, 0.5])
    start = top_eigenvalues(HessianOperator(model, loss, data), which="smallest", tol=1e-9).vectors[:, 0]
    products = PyHessianProducts(HessianOperator(model, loss, data))
    vector = products.pieces(start)
    (pair,) = power_iteration(products, vector, lambda: vector, k=1, sign=1, tol=1e-3, limit=1)
    assert pair.residual < 1e-6
    assert not pair.is_requested_end


@pytest.mark.parametrize(
    ("spectrum", "least", "most", "expected"),
    [
        ([2.0, -3.0, 0.5], -3.03, -2.97, [2.0, -3.0]),  # it returns the largest magnitude
        ([-1.0, -2.0, -4.0], -4.04, -3.96, [-1.0, -4.0]),
        ([1.0, -1.0, 0.5], -0.99, 0.99, [1.0, -1.0]),  # between ties it stops anywhere
        (CLOSE, 0.5, 0.995, [1.0, 0.5]),  # the change between iterates is not the error
    ],
)
def test_trap_wrong_eigenvalue(quadratic, spectrum, least, most, expected):
    problem = quadratic(spectrum, torch.float32)
    assert least < bare_eigenvalue(*problem) < most
    result = wrapped(*problem, which="both")
    torch.testing.assert_close(result.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=0)
    assert result.converged
    short = wrapped(*problem, max_products=1)
    assert (short.converged, short.products) == (False, 1)


def test_trap_small_hessians_vanish(single):
    model, loss, data = single
    size = wrapped(model, loss, data).values.item()

    def tiny(output, target):
        return 1e-9 * loss(output, target)

    assert bare_eigenvalue(model, tiny, data) < 0.5e-9 * size
    assert wrapped(model, tiny, data).values.item() == pytest.approx(1e-9 * size, rel=1e-5)


def test_trap_second_construction_doubles(single):
    value = bare_eigenvalue(*single)
    changed = copy.deepcopy(single[0])
    bare(changed, *single[1:])
    assert not changed.training  # it changes the mode, and leaves gradients that are added to
    torch.manual_seed(0)
    assert bare(changed, *single[1:]).eigenvalues()[0][0] == pytest.approx(2 * value, rel=1e-2)
    before = snapshot(single[0])
    first, second = (wrapped(*single).values.item() for _ in range(2))
    assert first == second
    assert_untouched(single[0], before)


def test_trap_unused_parameters_and_linear_losses(single):
    model, loss, data = single
    linear = nn.Linear(8, 3), lambda output, target: output.mean(), data
    with pytest.raises(RuntimeError):
        bare_eigenvalue(*linear)
    result = wrapped(*linear, k=2)
    assert (result.values.tolist(), result.converged) == ([0.0, 0.0], True)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    with pytest.raises((RuntimeError, AssertionError, TypeError)):
        bare_eigenvalue(model, loss, data)
    expected = top_eigenvalues(HessianOperator(model, loss, data)).values.item()
    assert wrapped(model, loss, data).values.item() == pytest.approx(expected, rel=1e-3)


def test_trap_density_needs_removed_function(single):
    with pytest.raises(RuntimeError, match=r"torch\.eig|deprecated|linalg"):
        bare(*single).density(iter=5, n_v=1)
    assert float(density(HessianOperator(*single), steps=5).weights.sum()) == pytest.approx(1)


def test_trap_trace_stops_by_coincidence(single):
    """Its number of samples is chosen by the first coincidence, and it states no error."""
    exact = float(HessianOperator(*single, dtype=torch.float64).to_dense().trace())
    samples, errors = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        drawn = bare(copy.deepcopy(single[0]), *single[1:]).trace()
        samples.append(len(drawn))
        errors.append(abs(np.mean(drawn) - exact) / abs(exact))
        found = trace(HessianOperator(*single), probes=200, seed=seed)
        assert found.products == 200
        assert abs(found.value - exact) < 5 * found.standard_error
    assert min(samples) < 0.5 * max(samples)
    assert max(errors) > 0.02


def test_trap_half_precision(single):
    model, loss, (x, y) = single
    exact = float(top_eigenvalues(HessianOperator(*single), tol=1e-5).values[0])
    half = copy.deepcopy(model).bfloat16()
    assert abs(bare_eigenvalue(half, loss, (x.bfloat16(), y)) - exact) > 0.005 * exact
    with pytest.raises(FlatlibError, match=r"float32 or float64, not torch\.bfloat16"):
        HessianOperator(half, loss, (x.bfloat16(), y))
    assert HessianOperator(half, loss, (x, y), dtype=torch.float32).dtype == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to fall back on")
def test_trap_needs_a_gpu_by_default(single):
    with pytest.raises((RuntimeError, AssertionError)):
        bare(*single, cuda=True)
    assert HessianOperator(*single).device.type == "cpu"


def test_trap_only_tuples_are_batches(single):
    model, loss, (x, y) = single
    batches = [{"pixels": x, "label": y}]
    with pytest.raises((ValueError, AttributeError, TypeError)):
        bare(copy.deepcopy(model), loss, dataloader=batches).eigenvalues()
    found = wrapped(model, loss, from_dict_batches(batches, "pixels", "label"), tol=1e-4)
    torch.testing.assert_close(found.values, top_eigenvalues(HessianOperator(*single)).values, rtol=1e-3, atol=0)


def test_trap_global_random_state(single):
    states, theirs, ours = [], set(), set()
    for seed in (0, 1):
        theirs.add(bare_eigenvalue(*single, seed=seed))
        states.append(torch.get_rng_state())
        ours.add(tuple(float(top_eigenvalues(HessianOperator(*single), engine=e).values) for e in ENGINES))
        assert torch.equal(torch.get_rng_state(), states[-1])
        assert not torch.equal(torch.manual_seed(seed).get_state(), states[-1])
    assert (len(theirs), len(ours)) == (2, 1)


def test_trap_frozen_parameters_vanish_silently(single):
    single[0][0].requires_grad_(False)
    assert len(bare(copy.deepcopy(single[0]), *single[1:]).params) == 2
    assert list(HessianOperator(*single).parameters) == ["3.weight", "3.bias"]
    assert list(per_layer(*single).index) == ["3.weight", "3.bias"]
