import copy

import pytest
import torch
from torch import nn

from conftest import Net, mean_output
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.operators import base
from flatlib.errors import FlatlibError
from flatlib.sharpness import between_iterates
from flatlib.sharpness.between_iterates import interpolated


def scalar(weight):
    """Output (N, 1) with the mean $w^4 / 12$, whose second derivative is $w^2$."""
    weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))
    return Net(lambda net, x: (net.weight**4 / 12).expand(len(x), 1), weight=weight)


def iterates(rate=0.5):
    """A small net with batch norm before and after one step of gradient descent, and its data."""
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()
    data = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    after = copy.deepcopy(before)
    nn.functional.cross_entropy(after(data[0]), data[1]).backward()
    with torch.no_grad():
        for p in after.parameters():
            p -= rate * p.grad
    return before, after, data


def test_valley_between_the_iterates():
    """lambda(t) = (1 - 3 t)^2 at t = i / 7: the maximum is 4, at the second iterate."""
    data = torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3)
    found = between_iterates(scalar(1.0), scalar(-2.0), mean_output, data)
    t = torch.arange(8, dtype=torch.float64) / 7
    torch.testing.assert_close(found.positions, t)
    torch.testing.assert_close(found.values, (1 - 3 * t) ** 2)
    assert (found.value, found.products, found.converged) == (pytest.approx(4.0), 8, True)


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_values_of_the_dense_spectrum(batch_norm):
    before, after, data = iterates()
    found = between_iterates(before, after, "cross_entropy", data, points=4, batch_norm=batch_norm, tol=1e-6)
    for position, value in zip(found.positions, found.values, strict=True):
        later = after.state_dict()
        mixed = {
            name: (1 - position) * t + position * later[name] if t.is_floating_point() else t
            for name, t in before.state_dict().items()
        }
        point = copy.deepcopy(before)
        point.load_state_dict(mixed)
        dense = HessianOperator(point, "cross_entropy", data, batch_norm=batch_norm).to_dense()
        assert float(value) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-8)
    top = int(found.values.argmax())
    assert (found.value, found.residual) == (float(found.values[top]), float(found.residuals[top]))
    assert found.residual <= 1e-6 * found.value


def test_warm_starts_save_products():
    before, after, data = iterates(rate=0.01)
    found = between_iterates(before, after, "cross_entropy", data)
    points = [interpolated(before, after, float(t)).module for t in found.positions]
    operators = [HessianOperator(point, "cross_entropy", data, batch_norm="train") for point in points]
    assert found.converged
    assert found.products <= sum(top_eigenvalues(operator, seed=0).products for operator in operators)


def test_buffers_but_counters_are_interpolated():
    before, after, _ = iterates()
    middle = interpolated(before, after, 0.25).module
    torch.testing.assert_close(middle[1].running_var, 0.75 * before[1].running_var + 0.25 * after[1].running_var)
    assert (int(before[1].num_batches_tracked), int(after[1].num_batches_tracked)) == (0, 1)
    assert int(middle[1].num_batches_tracked) == 0
    single = interpolated(before.float(), after, 0.5, dtype=torch.float64).module
    assert single[0].weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "batches", "options", "message"),
    [
        (lambda net: net, 1, {"points": 1}, "points=1"),
        (lambda net: nn.Sequential(nn.Linear(4, 2)), 1, {}, r'"0\.weight"'),
        (lambda net: nn.Sequential(*net, nn.Linear(3, 3)), 1, {}, r'"4\.weight"'),
        (lambda net: net, 2, {}, "one batch"),
        (lambda net: net, 1, {"engine": "arpack"}, "arpack"),
    ],
)
def test_bad_input_is_refused(change, batches, options, message):
    before, after, (x, y) = iterates()
    data = list(zip(x.chunk(batches), y.chunk(batches), strict=True))
    with pytest.raises(FlatlibError, match=message):
        between_iterates(before, change(after).double(), "cross_entropy", data, **options)


def test_data_are_read_and_derivatives_compared_once(monkeypatch):
    before, after, data = iterates()
    compared = []
    check = base.require_derivatives
    monkeypatch.setattr(base, "require_derivatives", lambda *how: compared.append(check(*how)))
    found = between_iterates(before, after, "cross_entropy", iter([data]), points=3)
    assert found.values.tolist() == between_iterates(before, after, "cross_entropy", data, points=3).values.tolist()
    assert len(compared) == 2
