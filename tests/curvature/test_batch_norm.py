"""Batch norm statistics estimated again: against one pass in train mode, and whatever the chunks."""

import copy

import pytest
import torch
from torch import nn

from conftest import Net, assert_untouched, snapshot
from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace


def forward(net, x):
    """Two batch norms, and a shortcut around the second."""
    hidden = net.linear(net.first(net.convolution(x)).relu().flatten(1))
    return net.head(hidden + net.second(hidden).relu())


@pytest.fixture
def problem():
    torch.manual_seed(0)
    norms = {"second": nn.BatchNorm1d(5), "first": nn.BatchNorm2d(3)}  # registered in the wrong order
    layers = {"convolution": nn.Conv2d(1, 3, 2), "linear": nn.Linear(12, 5), "head": nn.Linear(5, 3)}
    model = Net(forward, **norms, **layers).double()
    return model, (2 + 3 * torch.randn(23, 1, 3, 3, dtype=torch.float64), torch.arange(23) % 3)


def expected(model, x):
    """The model after one pass in train mode over all examples, its momentum 1."""
    model = copy.deepcopy(model).train()
    for layer in (model.first, model.second):
        layer.momentum = 1.0
    model(x)
    return model.eval()


@pytest.mark.parametrize("chunk_size", [None, 5, 1])
@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_statistics_of_all_examples(problem, kind, chunk_size):
    model, (x, y) = problem
    before = snapshot(model)
    operator = kind(model, "cross_entropy", (x, y), batch_norm="recalibrated", chunk_size=chunk_size)
    reference = kind(expected(model, x), "cross_entropy", (x, y))
    torch.testing.assert_close(operator.to_dense(), reference.to_dense(), rtol=1e-9, atol=1e-12)
    assert_untouched(model, before)
    eval_mode = kind(model, "cross_entropy", (x, y))
    assert not torch.allclose(operator.to_dense(), eval_mode.to_dense(), rtol=0.1)


def test_engines_and_trace_use_them(problem):
    model, (x, y) = problem
    operator = HessianOperator(model, "cross_entropy", (x, y), batch_norm="recalibrated")
    dense = HessianOperator(expected(model, x), "cross_entropy", (x, y)).to_dense()
    top = torch.linalg.eigvalsh(dense)[-1]
    for engine in ("lanczos", "pyhessian"):
        found = top_eigenvalues(operator, engine=engine, tol=1e-4)
        assert float(found.values[0]) == pytest.approx(float(top), rel=1e-6)
    measured = trace(operator)
    assert measured.exact
    assert measured.value == pytest.approx(float(dense.trace()), rel=1e-10)


def test_no_batch_norm_no_change():
    model, x, y = nn.Linear(4, 2), torch.randn(6, 4), torch.arange(6) % 2
    operators = [HessianOperator(model, "mse", (x, y), batch_norm=mode) for mode in ("eval", "recalibrated")]
    assert torch.equal(*(operator.to_dense() for operator in operators))
