"""Diagonals against dense matrices, and the coverage of their standard errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, diagonal, trace
from flatlib.errors import FlatlibError


@pytest.mark.parametrize("chunk_size", [None, 12])
@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_agrees_with_the_dense_diagonal(case, request, kind, chunk_size):
    operator = kind(*case, chunk_size=chunk_size)
    found = diagonal(operator)
    torch.testing.assert_close(found.values, operator.to_dense().diagonal(), rtol=1e-10, atol=1e-13)
    exact = "relu" in request.node.callspec.id or (kind is GaussNewtonOperator and "attention" not in str(request.node))
    assert found.products == (0 if exact else operator.shape[0])
    assert found.exact
    assert not found.standard_errors.any()


def tokens():
    """A linear layer on every row of the input."""
    return nn.Sequential(nn.Unflatten(1, (2, 36)), nn.Linear(36, 5), nn.ReLU(), nn.Flatten(), nn.Linear(10, 3))


def convolutional():
    """Groups, strides, dilation, batch norm and a residual connection."""
    layers = {"a": nn.Conv2d(2, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)}

    def forward(net, x):
        x = F.relu(net.a(x.unflatten(1, (2, 6, 6))))
        return net.head((x + F.relu(net.norm(net.b(x)))).mean((2, 3)))

    return Net(forward, **layers, norm=nn.BatchNorm2d(4), head=nn.Linear(4, 3))


@pytest.mark.parametrize("make", [tokens, convolutional])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_layers_exactly(make, loss, monkeypatch):
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(9, 72, dtype=torch.float64)
    model(x)
    operator = HessianOperator(model, loss, (x, torch.arange(9) % 3))
    expected = operator.to_dense().diagonal()
    for memory in (2**27, 2**12):  # in one part, and in several
        monkeypatch.setattr("flatlib.curvature.traces.exact.PART_MEMORY", memory)
        found = diagonal(operator)
        assert (found.exact, found.products) == (True, 0)
        torch.testing.assert_close(found.values, expected, rtol=1e-9, atol=1e-12)
    assert float(found.values.sum()) == pytest.approx(trace(operator).value)


def test_a_block_of_unused_and_used_parameters():
    torch.manual_seed(0)
    model = Net(lambda net, x: net.used(x), used=nn.Linear(8, 3), spare=nn.Linear(40, 5)).double()
    data = torch.randn(7, 8, dtype=torch.float64), torch.arange(7) % 3
    operator = GaussNewtonOperator(model, "cross_entropy", data, parameters=["used.bias", "spare.*"])
    found = diagonal(operator)
    assert found.exact
    assert found.values.shape == (3 + 205,)
    torch.testing.assert_close(found.values, operator.to_dense().diagonal())


def test_standard_errors_cover(quadratic):
    """Two of them hold an entry in about 95 of 100 cases, over entries and seeds."""
    operator = HessianOperator(*quadratic(torch.linspace(-1, 5, 120).tolist()))
    true = operator.to_dense().diagonal()
    operator.matmat = operator.to_dense().matmul
    found = [diagonal(operator, probes=40, seed=seed) for seed in range(40)]
    errors = torch.stack([(one.values - true).abs() / one.standard_errors for one in found])
    assert 0.92 <= float((errors <= 2).double().mean()) <= 0.97
    assert (found[0].products, found[0].exact) == (40, False)
    by_default = diagonal(operator)
    assert (by_default.products, by_default.exact) == (100, False)
    assert torch.equal(diagonal(operator, seed=0).values, by_default.values)


def test_mean_and_error_are_those_of_the_samples(quadratic):
    operator = HessianOperator(*quadratic([3.0, -1.0, 0.5, 0.1]))
    found = diagonal(operator, probes=20, seed=2)
    generator = torch.Generator().manual_seed(2)
    signs = [2.0 * torch.randint(2, (4,), generator=generator).double() - 1 for _ in range(20)]
    samples = torch.stack([z * operator.matvec(z) for z in signs])
    torch.testing.assert_close(found.values, samples.mean(0))
    torch.testing.assert_close(found.standard_errors, samples.std(0) / 20**0.5)


def test_bad_arguments_give_one_line(quadratic):
    with pytest.raises(FlatlibError, match="at least 2"):
        diagonal(HessianOperator(*quadratic([1.0, 2.0])), probes=1)
    model, loss, data = quadratic([1.0, 1e200])
    model.weight.data.zero_()
    with pytest.raises(FlatlibError, match="not finite"):
        diagonal(HessianOperator(model, lambda o, t: 1e200 * loss(o, t), data))
