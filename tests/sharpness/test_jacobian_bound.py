"""The term of Theorem 5.1 of MacDonald et al. 2023, by brute force over all pairs."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.errors import FlatlibError, NotDefined
from flatlib.losses import SmoothedCrossEntropy, SmoothedSquaredError
from flatlib.sharpness import jacobian_lower_bound, jacobian_norm

X, Y = torch.randn(23, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(23) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()


def by_brute_force(model, x, smoothing, squared):
    with torch.no_grad():
        logits = model.eval()(x)
    targets = (1 - smoothing) * F.one_hot(Y, 3).double() + smoothing / 3
    outputs = logits if squared else logits.softmax(1)
    costs = []
    for f, p, q in zip(logits, outputs, targets, strict=True):
        divergence = sum(float(b) * (math.log(b) - float(a)) for a, b in zip(f.log_softmax(0), q, strict=True) if b > 0)
        costs.append(float((p - q).square().sum()) / 2 if squared else divergence)
    misfit = max(math.sqrt(2 * cost) for cost in costs)
    assert all((p - q).norm() <= misfit + 1e-12 for p, q in zip(outputs, targets, strict=True))
    found = {"value": [], "fitted": [], "quotient": []}
    for i, j in itertools.combinations(range(len(x)), 2):
        distance, apart = (x[i] - x[j]).norm(), (targets[i] - targets[j]).norm()
        found["value"].append((apart - 2 * misfit) / distance)
        found["fitted"].append(apart / distance)
        found["quotient"].append((outputs[i] - outputs[j]).norm() / distance)
    return {name: float(max(values)) for name, values in found.items()} | {"misfit": misfit}


@pytest.mark.parametrize("chunk_size", [500, 4])
@pytest.mark.parametrize(
    ("loss", "smoothing"),
    [
        *[("cross_entropy", 0.0), (SmoothedCrossEntropy(0.4), 0.4)],
        *[("squared", 0.0), (SmoothedSquaredError(0.4), 0.4)],
    ],
    ids=["plain", "smoothed", "squared", "squared, smoothed"],
)
def test_brute_force(loss, smoothing, chunk_size):
    model = network()
    found = jacobian_lower_bound(model, loss, (X, Y), chunk_size=chunk_size)
    expected = by_brute_force(model, X, smoothing, loss == "squared" or isinstance(loss, SmoothedSquaredError))
    assert found._asdict() == pytest.approx(expected, rel=1e-10)
    assert found.value < found.quotient


def test_fitted_bound_is_proportional_to_the_targets():
    plain, smoothed = (jacobian_lower_bound(network(), SmoothedCrossEntropy(s), (X, Y)).fitted for s in (0.0, 0.75))
    assert smoothed == pytest.approx(plain / 4, rel=1e-12)


def test_linear_network_reaches_its_quotient():
    """A linear function's Jacobian is everywhere the same, so that the quotients do not exceed its norm."""
    model = nn.Linear(8, 3).double()
    found = jacobian_lower_bound(model, "squared", (X, Y))
    norm = float(jacobian_norm(model, X).max())
    assert 0.5 * norm < found.quotient <= norm * (1 + 1e-12)
    assert found.value <= norm


def test_equal_inputs_are_excluded():
    twice = torch.cat([X, X + 0.0]), torch.cat([Y, (Y + 1) % 3])
    assert jacobian_lower_bound(network(), "cross_entropy", twice).fitted < 10
    with pytest.raises(NotDefined, match="all inputs are equal"):
        jacobian_lower_bound(network(), "cross_entropy", (X[:1].expand(5, 8), Y[:5]))


@pytest.mark.parametrize(
    ("loss", "y", "options", "kind", "message"),
    [
        (F.l1_loss, Y, {}, NotDefined, "the cross-entropy and the squared loss only"),
        ("cross_entropy", Y + 1, {}, FlatlibError, "not classes of outputs of 3 classes"),
        ("squared", torch.ones(23, 2), {}, FlatlibError, "targets of shape"),
        ("squared", Y, {"chunk_size": 0}, FlatlibError, "chunk_size=0"),
    ],
)
def test_bad_input_is_refused(loss, y, options, kind, message):
    with pytest.raises(kind, match=message):
        jacobian_lower_bound(network(), loss, (X, y), **options)
