"""The engine against the dense spectrum; and, for each trap that it handles, PyHessian alone falling into it."""

import copy
import gc
import warnings
import weakref

import pyhessian
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.spectrum.pyhessian import PyHessianProducts, power_iteration
from flatlib.errors import FlatlibError


def bare(model, loss, data):
    """PyHessian as its documentation calls it, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyhessian.hessian(model, loss, data=data, cuda=False)


def bare_eigenvalue(model, loss, data):
    torch.manual_seed(0)
    return bare(model, loss, data).eigenvalues()[0][0]


def wrapped(model, loss, data, **arguments):
    return top_eigenvalues(HessianOperator(model, loss, data), engine="pyhessian", **arguments)


def float32(case):
    return case.model.float(), F.cross_entropy, (case.data[0].float(), case.data[1])


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_agrees_with_the_dense_spectrum(model_case, which):
    spectrum = torch.linalg.eigvalsh(model_case.dense())
    operator = HessianOperator(model_case.model, model_case.loss, model_case.data, chunk_size=12)
    result = top_eigenvalues(operator, which=which, engine="pyhessian")
    torch.testing.assert_close(result.values, spectrum[[-1 if which == "largest" else 0]], rtol=1e-4, atol=0)
    assert result.converged
    residuals = torch.linalg.vector_norm(operator.matmat(result.vectors) - result.vectors * result.values, dim=0)
    torch.testing.assert_close(residuals, result.residuals, rtol=1e-3, atol=1e-12)


def test_agrees_with_lanczos_in_single_precision_and_train_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    operator = HessianOperator(model, "mse", (torch.randn(9, 4), torch.arange(9) % 2), batch_norm="train")
    lanczos, power = (top_eigenvalues(operator, 2, engine=engine) for engine in ("lanczos", "pyhessian"))
    torch.testing.assert_close(power.values, lanczos.values, rtol=1e-3, atol=0)
    assert power.products > lanczos.products
    warm = top_eigenvalues(operator, engine="pyhessian", start=lanczos.vectors[:, 0])
    assert warm.products < power.products


def test_trap_largest_magnitude_is_not_largest(quadratic):
    problem = quadratic([2.0, -3.0, 0.5], torch.float32)
    assert bare_eigenvalue(*problem) == pytest.approx(-3, rel=1e-2)
    assert wrapped(*problem).values.item() == pytest.approx(2, rel=1e-3)
    assert wrapped(*problem, which="smallest").values.item() == pytest.approx(-3, rel=1e-3)
    negative = quadratic([-1.0, -2.0, -4.0], torch.float32)
    torch.testing.assert_close(
        wrapped(*negative, which="both").values, torch.tensor([-1.0, -4.0], dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_the_wrong_end_is_never_converged(quadratic):
    model, loss, data = quadratic([2.0, -3.0, 0.5])
    start = top_eigenvalues(HessianOperator(model, loss, data), which="smallest", tol=1e-9).vectors[:, 0]
    products = PyHessianProducts(HessianOperator(model, loss, data))
    vector = products.pieces(start)
    (pair,) = power_iteration(products, vector, lambda: vector, k=1, sign=1, tol=1e-3, limit=1)
    assert pair.residual < 1e-6
    assert not pair.is_requested_end


def test_trap_ties_stop_anywhere(quadratic):
    problem = quadratic([1.0, -1.0, 0.5], torch.float32)
    assert abs(bare_eigenvalue(*problem)) < 0.99
    result = wrapped(*problem, which="both")
    torch.testing.assert_close(result.values, torch.tensor([1.0, -1.0], dtype=torch.float64), rtol=1e-3, atol=0)
    assert result.converged


def test_trap_change_between_iterates_is_not_an_error(quadratic):
    problem = quadratic([1.0, *torch.linspace(0.5, 0.985, 40).tolist()], torch.float32)
    assert bare_eigenvalue(*problem) < 0.995
    result = wrapped(*problem)
    assert result.values.item() == pytest.approx(1, rel=1e-3)
    assert (result.converged, result.residuals.item() <= 1e-3) == (True, True)
    short = wrapped(*problem, max_products=10)
    assert (short.converged, short.products) == (False, 10)


def test_trap_small_hessians_vanish(small_case):
    model, loss, data = float32(small_case)
    size = wrapped(model, loss, data).values.item()

    def tiny(output, target):
        return 1e-9 * loss(output, target)

    assert bare_eigenvalue(copy.deepcopy(model), tiny, data) < 0.5e-9 * size
    assert wrapped(model, tiny, data).values.item() == pytest.approx(1e-9 * size, rel=1e-5)


def test_trap_second_construction_doubles(small_case):
    model, loss, data = float32(small_case)
    single = bare_eigenvalue(copy.deepcopy(model), loss, data)
    bare(model, loss, data)
    assert bare_eigenvalue(model, loss, data) == pytest.approx(2 * single, rel=1e-2)
    first, second = (wrapped(model, loss, data).values.item() for _ in range(2))
    assert first == second


def test_trap_model_state_changes(small_case):
    model, loss, data = float32(small_case)
    changed = copy.deepcopy(model)
    bare(changed, loss, data)
    assert not changed.training
    assert next(changed.parameters()).grad is not None

    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    wrapped(model, loss, data, max_products=5)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


def test_trap_train_mode_updates_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = torch.randn(9, 4), torch.arange(9) % 2
    before = model[1].running_mean.clone()
    operator = HessianOperator(model, "cross_entropy", data, batch_norm="train")
    result = top_eigenvalues(operator, engine="pyhessian", tol=1e-4)
    assert torch.equal(model[1].running_mean, before)
    assert result.values.item() == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense())[-1]), rel=1e-4)


def test_trap_unused_parameters_and_linear_losses(small_case, quadratic):
    model, loss, data = float32(small_case)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    with pytest.raises((RuntimeError, AssertionError, TypeError)):
        bare_eigenvalue(copy.deepcopy(model), loss, data)
    expected = top_eigenvalues(HessianOperator(model, loss, data)).values.item()
    assert wrapped(model, loss, data).values.item() == pytest.approx(expected, rel=1e-3)

    linear = nn.Linear(8, 3), lambda output, target: output.mean(), data
    with pytest.raises(RuntimeError):
        bare_eigenvalue(copy.deepcopy(linear[0]), *linear[1:])
    result = wrapped(*linear, k=2)
    assert (result.values.tolist(), result.converged) == ([0.0, 0.0], True)


def test_trap_empty_loader_gives_nan(small_case):
    model, loss, _ = float32(small_case)
    with pytest.raises(FlatlibError, match="empty"):
        wrapped(model, loss, iter([]))


def test_restricts_to_a_block_of_parameters(small_case):
    operator = HessianOperator(small_case.model, small_case.loss, small_case.data, parameters="3.*")
    result = top_eigenvalues(operator, engine="pyhessian", tol=1e-4)
    assert result.values.item() == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense())[-1]), rel=1e-6)


def test_leaks_no_graph(small_case):
    model, loss, data = float32(small_case)
    alive = []

    def watched(output, target):
        alive.append(weakref.ref(output))
        return loss(output, target)

    gc.disable()
    try:
        top_eigenvalues(HessianOperator(model, watched, data), engine="pyhessian")
        assert all(output() is None for output in alive)
    finally:
        gc.enable()
