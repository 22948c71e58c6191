import copy

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from conftest import Net
from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.sharpness import minimum_sharpness
from flatlib.sharpness.minimum import minimise_over_scales
from flatlib.sharpness.rescaling import chain_of_layers, rescale

X = torch.randn(15, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DATA = X, torch.arange(15) % 3


def relu():
    return nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))


def without_biases():
    return nn.Sequential(nn.Linear(8, 4, bias=False), nn.LeakyReLU(0.1), nn.Linear(4, 3, bias=False))


def conv_bn():
    image = nn.Unflatten(1, (2, 2, 2))
    body = nn.Sequential(nn.Conv2d(2, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(image, body, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 3))


def softmax_regression():
    return nn.Linear(8, 3)


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().double()


NETWORKS = {make.__name__: make for make in (relu, without_biases, conv_bn, softmax_regression)}


@pytest.fixture(params=NETWORKS)
def network(request):
    model = seeded(NETWORKS[request.param], seed=1)
    model(X)  # running statistics of batch norm away from their initial values
    return model


def dense_trace(model, loss, alphas=None):
    model = copy.deepcopy(model)
    if alphas is not None:
        rescale(model, chain_of_layers(model), alphas)
    return float(HessianOperator(model, loss, DATA).to_dense().trace())


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_value_is_a_dense_trace(network, loss):
    found = minimum_sharpness(network, loss, DATA)
    assert found.exact
    assert found.trace == pytest.approx(dense_trace(network, loss), rel=1e-10)
    assert found.value == pytest.approx(dense_trace(network, loss, found.alphas), rel=1e-10)
    assert np.prod(found.alphas) == pytest.approx(1.0)
    assert found.value <= found.trace
    assert found.standard_error == 0


def test_no_rescaling_has_a_smaller_trace(network):
    """Brute force: the trace of the dense Hessian of networks that are really rescaled, minimised by scipy."""
    found = minimum_sharpness(network, "cross_entropy", DATA)

    def objective(logs):
        return dense_trace(network, "cross_entropy", np.exp(np.append(logs, -np.sum(logs))))

    if len(found.alphas) > 1:
        start = np.zeros(len(found.alphas) - 1)
        brute = scipy.optimize.minimize(objective, start, method="L-BFGS-B", options={"ftol": 1e-7}).fun
        assert found.value == pytest.approx(brute, rel=1e-5)
    else:
        assert found.value == found.trace
    generator = np.random.default_rng(0)
    for _ in range(3):
        logs = generator.standard_normal(len(found.alphas))
        assert found.value <= dense_trace(network, "cross_entropy", np.exp(logs - logs.mean())) * (1 + 1e-12)


def test_rescaling_changes_nothing(network):
    before = minimum_sharpness(network, "cross_entropy", DATA)
    logs = np.random.default_rng(2).standard_normal(len(before.alphas))
    outputs = network.eval()(X)
    rescale(network, chain_of_layers(network), np.exp(2 * (logs - logs.mean())))
    torch.testing.assert_close(network(X), outputs)
    assert minimum_sharpness(network, "cross_entropy", DATA).value == pytest.approx(before.value, rel=1e-10)


def test_without_biases_geometric_mean():
    found = minimum_sharpness(without_biases().double(), "mse", DATA)
    assert found.value == pytest.approx(2 * np.sqrt(found.weight_traces.prod()), rel=1e-12)
    assert found.alphas[0] == pytest.approx((found.weight_traces[0] / found.weight_traces[1]) ** 0.25)
    assert found.layers == ("0", "2")
    assert found.iterations == 0


def test_value_scales_with_the_loss():
    model = seeded(relu)

    def tiny(output, target):
        return 1e-9 * nn.functional.mse_loss(output, nn.functional.one_hot(target, 3).double())

    plain, small = minimum_sharpness(model, "mse", DATA), minimum_sharpness(model, tiny, DATA, probes=2)
    scales, iterations = minimise_over_scales(1e-9 * plain.weight_traces, 1e-9 * plain.bias_traces)
    assert iterations == plain.iterations
    assert np.exp(np.diff(scales, prepend=0.0)) == pytest.approx(plain.alphas)
    assert 0 < small.value < 1e-8


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("layers", [1, 2, 5, 18])
def test_newton_finds_where_the_slope_vanishes(layers, spread):
    generator = np.random.default_rng(layers)
    a, b = np.exp(spread * generator.standard_normal((2, layers)))
    u, iterations = minimise_over_scales(a, b)
    parts = a * np.exp(-2 * np.diff(u, prepend=0.0))
    slopes = parts[1:] - parts[:-1] - (b * np.exp(-2 * u))[:-1]
    assert np.abs(slopes).max(initial=0.0) <= 1e-6 * parts.sum()
    assert u[-1] == 0
    assert iterations <= (10 if spread <= 2 else 60)


def test_standard_error_is_the_spread():
    model = seeded(relu)
    exact = minimum_sharpness(model, "cross_entropy", DATA)
    probed = [minimum_sharpness(model, "cross_entropy", DATA, probes=20, seed=seed) for seed in range(40)]
    assert (probed[0].exact, probed[0].products) == (False, 6 * 20)
    values, errors = (np.array([getattr(one, name) for one in probed]) for name in ("value", "standard_error"))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.std(values), rel=0.3)
    assert abs(values.mean() - exact.value) < 4 * np.std(values) / np.sqrt(40)


def test_frozen_biases_do_not_count():
    model = seeded(relu)
    model[2].bias.requires_grad_(False)
    found = [minimum_sharpness(model, "cross_entropy", DATA, batch_norm=mode) for mode in ("eval", "train")]
    assert found[0].bias_traces[1] == 0 < found[0].bias_traces[0]
    assert found[0].value == found[1].value


def shortcut():
    return Net(lambda net, x: net.last(net.first(x).relu() + x[:, :4]), first=nn.Linear(8, 4), last=nn.Linear(4, 3))


def backwards():
    """The second layer is registered first, and no bias tells them apart."""
    net = Net(lambda net, x: net.last(net.first(x).relu()), last=nn.Linear(4, 3), first=nn.Linear(8, 4))
    for layer in (net.first, net.last):
        nn.init.zeros_(layer.bias)
    return net


def tied():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    return model


def frozen():
    model = relu()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)), {}, "positively homogeneous"),
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 3)), {}, "positively homogeneous"),
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.PReLU(), nn.Linear(4, 3)), {}, "positively homogeneous"),
        (backwards, {}, "positively homogeneous"),
        (shortcut, {}, "positively homogeneous"),
        (conv_bn, {"batch_norm": "train"}, "not defined with batch norm in train mode"),
        (tied, {}, '"2" shares a parameter'),
        (frozen, {}, 'over "0.weight" is 0'),
        (lambda: nn.Sequential(nn.RNN(8, 3)), {}, 'the parameter "0.bias_hh_l0"'),
        (relu, {"batch_norm": "recalibrate"}, "is unknown"),
    ],
    ids=["tanh", "layer norm", "prelu", "order", "shortcut", "batch norm", "tied", "frozen", "rnn", "mode"],
)
def test_undefined_with_the_reason(make, arguments, message):
    with pytest.raises(FlatlibError, match=message) as error:
        minimum_sharpness(seeded(make), "cross_entropy", DATA, **arguments)
    assert "\n" not in str(error.value)
