import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, trace
from flatlib.curvature.traces.exact import exact_traces
from flatlib.errors import FlatlibError

LOSSES = ["cross_entropy", "mse", nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy]


def problem(model, shape=(2, 6, 6), examples=7):
    torch.manual_seed(0)
    model = model.double()
    x = torch.randn(examples, *shape, dtype=torch.float64)
    model.train()(x)  # running statistics away from their initial values
    return model, (x, torch.arange(examples) % 3)


def check(model, data, exact, loss="cross_entropy", **arguments):
    operator = HessianOperator(model, loss, data, **arguments)
    found = trace(operator)
    true = float(operator.to_dense().trace())
    assert found.exact == exact
    if exact:
        assert found.value == pytest.approx(true, rel=1e-10, abs=1e-14)
        assert (found.standard_error, found.products) == (0.0, 0)
    else:
        assert abs(found.value - true) < 5 * found.standard_error
        assert found.products == 100


@pytest.mark.parametrize("chunk_size", [None, 12])
def test_agrees_with_the_dense_trace(case, request, chunk_size):
    exact = "relu" in request.node.callspec.id
    check(case.model, case.data, exact, case.loss, chunk_size=chunk_size)
    operator = GaussNewtonOperator(case.model, case.loss, case.data, chunk_size=chunk_size)
    found = trace(operator)
    assert found.exact == ("attention" not in request.node.callspec.id)
    if found.exact:
        assert found.value == pytest.approx(float(operator.to_dense().trace()), rel=1e-10)


KINKS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.Hardtanh(), nn.Identity(), nn.Dropout(0.5)]
BENDS = [nn.Tanh(), nn.GELU(), nn.Softplus(), nn.Softmax(1), nn.Hardswish(), nn.LayerNorm(4)]
POOLS = [nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, padding=1)]


@st.composite
def networks(draw):
    """A random network on (2, 6, 6), and whether it is piecewise linear in every parameter."""
    channels, layers = 2, []
    for _ in range(draw(st.integers(0, 2))):
        width, groups = channels * draw(st.integers(1, 2)), draw(st.sampled_from([1, channels]))
        kernel, stride = draw(st.sampled_from([1, (2, 1), 2])), draw(st.integers(1, 2))
        padding, dilation, bias = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.booleans())
        layers.append(nn.Conv2d(channels, width, kernel, stride, padding, dilation, groups, bias))
        channels = width
        layers += [nn.BatchNorm2d(channels)] if draw(st.booleans()) else []
        layers.append(draw(st.sampled_from(KINKS)))
    layers += [draw(st.sampled_from(POOLS)), nn.Flatten()]
    features = nn.Sequential(*layers)(torch.zeros(2, 2, 6, 6)).shape[1]
    layers += [nn.Linear(features, 4)] + ([nn.BatchNorm1d(4)] if draw(st.booleans()) else [])
    bent = draw(st.booleans())
    layers += [draw(st.sampled_from(KINKS)), *([draw(st.sampled_from(BENDS))] if bent else [])]
    return nn.Sequential(*layers, nn.Linear(4, 3, bias=draw(st.booleans()))), not bent


@given(networks(), st.sampled_from(LOSSES), st.sampled_from([None, 4]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_random_networks(network, loss, chunk_size):
    model, data = problem(network[0])
    operator = HessianOperator(model, loss, data, chunk_size=chunk_size)
    traces = exact_traces(operator)
    assert (traces is not None) == network[1]
    if traces is not None:
        diagonal = operator.to_dense().diagonal().split([p.numel() for p in operator.parameters.values()])
        expected = torch.stack([part.sum() for part in diagonal])
        found = torch.tensor(list(traces.values()), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


class Residual(nn.Module):
    """Functional operations only, and a residual connection."""

    def __init__(self, bend=F.relu):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 3),
        )
        self.bend = bend

    def forward(self, x):
        x = F.relu_(self.first(x))
        x = x + self.bend(self.second(x)) / 2
        return self.head(torch.flatten(F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1), 1))


class Dense(nn.Module):
    """Two layers, and whatever a custom forward does with them."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(72, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.steps = forward

    def forward(self, x):
        return self.head(self.steps(self, x.flatten(1)))


class Relu(torch.autograd.Function):
    """Not a ReLU: a custom function with the name of one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def centred(x):
    return x - x.mean(0)


def lying(layer):
    layer.forward = lambda x: 2 * F.linear(x, layer.weight, layer.bias)
    return layer


NOT_EXACT = {
    "a tanh": lambda net, x: torch.tanh(net.a(x)),
    "a tanh of a constant and a parameter": lambda net, x: F.relu(net.a(x)) + net.b.bias.tanh(),
    "a gate": lambda net, x: net.a(x) * net.b(net.a(x)),
    "a square": lambda net, x: net.a(x) ** 2,
    "a layer used twice in a row": lambda net, x: net.b(F.relu(net.b(net.a(x)))),
    "a layer used twice side by side": lambda net, x: net.b(net.a(x)) + net.b(-net.a(x)),
    "a weight used past its layer": lambda net, x: net.b(net.a(x)) + net.a.weight.sum(),
    "a layer used outside itself": lambda net, x: F.linear(net.a(x), net.b.weight, net.b.bias),
    "a layer called by keyword": lambda net, x: net.b(input=net.a(x)),
    "a custom function": lambda net, x: Relu.apply(net.a(x)),
    "examples mixed": lambda net, x: centred(net.a(x)),
    "examples mixed before a layer": lambda net, x: net.b(F.relu(net.a(x)).cumsum(0)),
    "examples along another dimension": lambda net, x: net.b(net.a(x).reshape(-1, 1, 4).transpose(0, 1))[0],
    "a layer that lies": lambda net, x: lying(net.b)(net.a(x)),
    "division": lambda net, x: net.b(x[:, :4]) / (2 + net.a(x).abs()),
}


@pytest.mark.parametrize("steps", NOT_EXACT.values(), ids=NOT_EXACT)
def test_is_not_called_exact(steps):
    model, data = problem(Dense(steps))
    operator = HessianOperator(model, "cross_entropy", data)
    assert exact_traces(operator) is None
    found = trace(operator)
    assert not found.exact
    assert abs(found.value - float(operator.to_dense().trace())) < 5 * found.standard_error


EXACT = {
    "functional": lambda net, x: F.leaky_relu(net.b(F.relu(net.a(x)))),
    "rows of positions": lambda net, x: F.relu(net.b(net.a(x[:, None] * torch.arange(3).view(3, 1)).relu())).mean(1),
    "a product of two branches": lambda net, x: net.a(x) * net.b(x[:, :4]),
    "an unused layer": lambda net, x: net.a(x),
    "a bend before the parameters": lambda net, x: net.a(torch.tanh(x)),
}


@pytest.mark.parametrize("steps", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_is_exact(steps, loss):
    model, data = problem(Dense(steps))
    check(model, data, True, loss)


def test_residual_networks_and_a_tanh_hidden_in_one():
    check(*problem(Residual()), True)
    check(*problem(Residual(torch.tanh)), False)
    check(*problem(Residual(torch.tanh)), True, parameters="head.*")
    check(*problem(Residual(torch.tanh)), False, parameters="first.*")


def test_tied_parametrised_and_hooked_layers():
    model, data = problem(
        nn.Sequential(nn.Flatten(), nn.Linear(72, 72), nn.ReLU(), nn.Linear(72, 72), nn.Linear(72, 3))
    )
    model[3].weight = model[1].weight
    assert exact_traces(HessianOperator(model, "mse", data)) is None
    model, data = problem(nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(72, 3))))
    assert exact_traces(HessianOperator(model, "mse", data)) is None
    model, data = problem(nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Linear(4, 3)))
    model[1].register_forward_hook(lambda module, inputs, output: output**3)
    check(model, data, False)


def test_batch_norm_in_train_mode_is_not_exact():
    model, data = problem(nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))
    check(model, data, True)
    check(model, data, False, batch_norm="train")
    assert not trace(GaussNewtonOperator(model, "mse", data, batch_norm="train")).exact
    unaware = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)
    )
    check(*problem(unaware), False, chunk_size=7)


def test_losses_of_every_kind():
    model, (x, y) = problem(nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3)))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64))
    check(model, (x, y), True, weighted)
    check(model, (x, torch.where(y == 1, -100, y)), True)
    check(model, (x, torch.rand(7, 3, dtype=torch.float64)), True)
    check(model, (x, y), True, lambda output, target: output.sin().mean())
    check(model, (x, y), True, lambda output, target: output.mean())
    check(model, (x, y), False, lambda output, target: -output.log_softmax(0)[:, 0].mean())


def test_parts_of_a_chunk(monkeypatch):
    monkeypatch.setattr("flatlib.curvature.traces.exact.PART_MEMORY", 8 * 500)
    for loss in LOSSES:
        check(*problem(Residual()), True, loss)
    model, (x, y) = problem(Residual())
    check(model, (x, torch.where(y == 1, -100, y)), True)


def test_confident_networks_keep_their_digits():
    """tr H = 2 p (1 - p) (|x|^2 + 1) of two classes, down to 1 - p = 1e-26."""
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([60.0, 0.0]))
    data = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    small = torch.tensor(-60.0, dtype=torch.float64).sigmoid()
    assert trace(HessianOperator(layer, "cross_entropy", data)).value == pytest.approx(4 * float(small), rel=1e-12)
    assert trace(HessianOperator(layer.float(), "cross_entropy", data)).value == pytest.approx(
        4 * float(small), rel=1e-5
    )


def test_relative_errors_do_not_depend_on_the_scale_of_the_loss(model_case, request):
    x, y = model_case.data
    model = model_case.model.float()
    plain, tiny = (trace(HessianOperator(model, scale(factor), (x.float(), y))) for factor in (1.0, 2.0**-40))
    assert plain.exact == tiny.exact == (request.node.callspec.id == "relu")
    assert tiny.value * 2.0**40 == pytest.approx(plain.value, rel=1e-4)
    assert tiny.standard_error * 2.0**40 == pytest.approx(plain.standard_error, rel=1e-3)


def scale(factor):
    return lambda output, target: factor * F.cross_entropy(output, target)


def test_zero_hessian(quadratic):
    found = trace(HessianOperator(*quadratic([0.0] * 4)))
    assert (found.value, found.standard_error, found.exact) == (0.0, 0.0, False)


def test_standard_errors_cover(quadratic):
    """Two standard errors hold the trace in about 95 of 100 seeds: here in at least 90 and at most 99 % of 100."""
    spectrum = torch.linspace(-1, 5, 12).tolist()
    operator = HessianOperator(*quadratic(spectrum))
    found = [trace(operator, probes=40, seed=seed) for seed in range(100)]
    covered = sum(abs(one.value - sum(spectrum)) <= 2 * one.standard_error for one in found) / 100
    assert 0.9 <= covered <= 0.99
    assert found[0].products == 40
    assert trace(operator, probes=40, seed=0) == found[0] != found[1]


def test_probes_force_an_estimate():
    model, data = problem(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)))
    found = trace(HessianOperator(model, "mse", data), probes=10)
    assert (found.exact, found.products) == (False, 10)


def test_says_what_is_wrong(quadratic):
    with pytest.raises(FlatlibError, match="at least 2"):
        trace(HessianOperator(*quadratic([1.0])), probes=1)
    model, loss, data = quadratic([1.0, 1e200])
    model.weight.data.zero_()
    with pytest.raises(FlatlibError, match="not finite"):
        trace(HessianOperator(model, lambda o, t: 1e200 * loss(o, t), data))


def test_leaves_the_random_state_alone(case):
    state = torch.get_rng_state()
    trace(HessianOperator(case.model, case.loss, case.data))
    assert torch.equal(torch.get_rng_state(), state)
