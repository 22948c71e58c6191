"""PyHessian's traps beside its eigenvalues: densities, traces, precisions, devices, batches, random numbers."""

import copy
import importlib.util
import warnings

import numpy as np
import pyhessian
import pytest
import torch
from torch import nn

from flatlib.curvature import HessianOperator, density, from_dict_batches, per_layer, top_eigenvalues, trace
from flatlib.errors import FlatlibError
from flatlib.figures import landscape_lines


@pytest.fixture
def single(small_case):
    """A network in single precision, its loss and its data."""
    return (
        copy.deepcopy(small_case.model).float(),
        nn.CrossEntropyLoss(),
        (small_case.data[0].float(), small_case.data[1]),
    )


def bare(model, loss, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyhessian.hessian(model, loss, data=data, **{"cuda": False} | options)


def test_trap_density_needs_a_function_that_pytorch_has_dropped(single):
    with pytest.raises(RuntimeError, match=r"torch\.eig|deprecated|linalg"):
        bare(*single).density(iter=5, n_v=1)
    found = density(HessianOperator(*single), steps=5)
    assert float(found.weights.sum()) == pytest.approx(1)


def test_trap_more_steps_than_dimensions_make_ghosts(quadratic):
    """PyHessian divides by a rounded zero once the space is exhausted; here the probe ends."""
    model, loss, data = quadratic([2.0, 1.0, -1.0])
    found = density(HessianOperator(model, loss, data), steps=30)
    torch.testing.assert_close(found.nodes, torch.tensor([-1.0, 1.0, 2.0], dtype=torch.float64), rtol=1e-9, atol=0)
    assert found.products == 3


def test_trap_a_trace_that_stops_when_it_looks_settled(single):
    """Its number of samples is what the first lucky coincidence makes it, and no error is stated."""
    exact = float(HessianOperator(*single, dtype=torch.float64).to_dense().trace())
    samples, errors = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        drawn = bare(copy.deepcopy(single[0]), *single[1:]).trace()
        samples.append(len(drawn))
        errors.append(abs(np.mean(drawn) - exact) / abs(exact))
    assert min(samples) < 0.5 * max(samples)
    assert max(errors) > 0.02
    for seed in range(8):
        found = trace(HessianOperator(*single), probes=200, seed=seed)
        assert found.products == 200
        assert abs(found.value - exact) < 5 * found.standard_error


def test_trap_half_precision_is_wrong_by_percents(single):
    model, loss, (x, y) = single
    exact = float(top_eigenvalues(HessianOperator(model, loss, (x, y)), tol=1e-5).values[0])
    torch.manual_seed(0)
    ((value,), _) = bare(copy.deepcopy(model).bfloat16(), loss, (x.bfloat16(), y)).eigenvalues()
    assert abs(value - exact) > 0.005 * exact
    with pytest.raises(FlatlibError, match=r"float32 or float64, not torch\.bfloat16"):
        HessianOperator(copy.deepcopy(model).bfloat16(), loss, (x.bfloat16(), y))
    assert HessianOperator(copy.deepcopy(model).bfloat16(), loss, (x, y), dtype=torch.float32).dtype == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to fall back on")
def test_trap_it_wants_a_gpu_unless_told_otherwise(single):
    with pytest.raises((RuntimeError, AssertionError)):
        bare(*single, cuda=True)
    assert HessianOperator(*single).device.type == "cpu"


def test_trap_only_tuples_are_batches(single):
    model, loss, (x, y) = single
    batches = [{"pixels": x, "label": y}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hessian = pyhessian.hessian(copy.deepcopy(model), loss, dataloader=batches, cuda=False)
    with pytest.raises((ValueError, AttributeError, TypeError)):
        hessian.eigenvalues()
    expected = top_eigenvalues(HessianOperator(model, loss, (x, y)))
    found = top_eigenvalues(
        HessianOperator(model, loss, from_dict_batches(batches, "pixels", "label")), engine="pyhessian", tol=1e-4
    )
    torch.testing.assert_close(found.values, expected.values, rtol=1e-3, atol=0)


def test_trap_the_answer_depends_on_the_global_random_state_and_moves_it(single):
    values = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        values.add(bare(copy.deepcopy(single[0]), *single[1:]).eigenvalues()[0][0])
        assert not torch.equal(torch.get_rng_state(), before)
        before = torch.get_rng_state()
        values_here = [
            float(top_eigenvalues(HessianOperator(*single), engine=e).values[0]) for e in ("lanczos", "pyhessian")
        ]
        assert torch.equal(torch.get_rng_state(), before)
        values.add(("ours", *values_here))
    assert len(values) == 3  # two of PyHessian's, one of ours


def test_trap_frozen_parameters_are_left_out_without_a_word(single):
    model, loss, data = single
    model[0].requires_grad_(False)
    assert len(bare(copy.deepcopy(model), loss, data).params) == 2
    operator = HessianOperator(model, loss, data)
    assert list(operator.parameters) == ["3.weight", "3.bias"]
    assert list(per_layer(model, loss, data).index) == ["3.weight", "3.bias"]


def test_trap_its_plots_are_not_packaged():
    assert importlib.util.find_spec("density_plot") is None
    assert not hasattr(pyhessian, "get_esd_plot")
    assert callable(landscape_lines)
