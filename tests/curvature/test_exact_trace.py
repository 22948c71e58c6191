"""Exact traces: against the dense matrix, and none for a network that only looks piecewise linear."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, trace
from flatlib.curvature.traces.exact import exact_traces

LOSSES = ["cross_entropy", "mse", nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy]


def problem(model, shape=(2, 6, 6), examples=7):
    torch.manual_seed(0)
    model = model.double()
    x = torch.randn(examples, *shape, dtype=torch.float64)
    model.train()(x)  # running statistics away from their initial values
    return model, (x, torch.arange(examples) % 3)


def check(model, data, exact, loss="cross_entropy", **arguments):
    operator = HessianOperator(model, loss, data, **arguments)
    state = torch.get_rng_state()
    found = trace(operator)
    assert torch.equal(torch.get_rng_state(), state)
    true = float(operator.to_dense().trace())
    assert found.exact == exact
    if exact:
        assert found.value == pytest.approx(true, rel=1e-10, abs=1e-14)
        assert (found.standard_error, found.products) == (0.0, 0)
    else:
        assert abs(found.value - true) < 5 * found.standard_error


@pytest.mark.parametrize("chunk_size", [None, 12])
def test_agrees_with_the_dense_trace(case, request, chunk_size):
    exact = "relu" in request.node.callspec.id
    model, loss, data = case
    check(model, data, exact, loss, chunk_size=chunk_size)
    operator = GaussNewtonOperator(*case, chunk_size=chunk_size)
    found = trace(operator)
    assert found.exact == ("attention" not in request.node.callspec.id)
    if found.exact:
        assert found.value == pytest.approx(float(operator.to_dense().trace()), rel=1e-10)


def residual(bend=F.relu):
    """Functional operations only, and a residual connection."""

    def forward(net, x):
        x = F.relu_(net.first(x))
        x = x + bend(net.second(x)) / 2
        return net.head(torch.flatten(F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1), 1))

    convolutions = {"first": nn.Conv2d(2, 4, 3, padding=1), "second": nn.Conv2d(4, 4, 3, padding=1)}
    return Net(forward, **convolutions, head=nn.Linear(4, 3))


def dense(steps=lambda net, x: F.relu(net.b(F.relu(net.a(x)))), mix=lambda h: h):
    """Two layers in any order of steps, and a function of the outputs."""
    layers = {"a": nn.Linear(72, 4), "b": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Net(lambda net, x: mix(net.head(steps(net, x.flatten(1)))), **layers)


def chain(*between):
    """Layers between two linear ones."""
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 4), *between, nn.Linear(4, 3))


class Relu(torch.autograd.Function):
    """Not a ReLU: a custom function with the name of one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


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
    "examples mixed before a layer": lambda net, x: net.b(F.relu(net.a(x)).cumsum(0)),
    "examples along another dimension": lambda net, x: net.b(net.a(x).reshape(-1, 1, 4).transpose(0, 1))[0],
    "a layer that lies": lambda net, x: lying(net.b)(net.a(x)),
    "division": lambda net, x: net.b(x[:, :4]) / (2 + net.a(x).abs()),
}
MIXING = {
    "the next one": lambda h: h + F.pad(h[1:], (0, 0, 0, 1)),
    "the previous one": lambda h: h + F.pad(h[:-1], (0, 0, 1, 0)),
    "the first one": lambda h: torch.cat([h[:1], h[1:] + h[:1]]),
    "the last one": lambda h: torch.cat([h[:-1] + h[-1:], h[-1:]]),
    "all before": lambda h: h.cumsum(0),
    "all after": lambda h: h.flip(0).cumsum(0).flip(0),
    "the mean": lambda h: h - h.mean(0),
}
HIDDEN = [{"steps": steps} for steps in NOT_EXACT.values()] + [{"mix": mix} for mix in MIXING.values()]


@pytest.mark.parametrize("change", HIDDEN, ids=[*NOT_EXACT, *MIXING])
def test_hidden_curvature_is_not_exact(change):
    model, data = problem(dense(**change))
    assert exact_traces(HessianOperator(model, "cross_entropy", data)) is None
    check(model, data, False)


@pytest.mark.parametrize("layer", ["a", "b", "head"])
def test_unseen_wrong_layers_are_not_exact(layer):
    """The first example is zero, and all that it passes through dead: no gradient of the first two layers is seen."""
    model, (x, y) = problem(dense())
    x[0] = 0
    model.a.bias.data.zero_()
    model.b.bias.data.fill_(-100.0)
    assert exact_traces(HessianOperator(model, "cross_entropy", (x, y))) is not None
    operator = HessianOperator(model, "cross_entropy", (x, y))
    lying(getattr(operator.model, layer))
    assert exact_traces(operator) is None


EXACT = {
    "a chain": lambda net, x: F.relu(net.b(F.relu(net.a(x)))),
    "functional": lambda net, x: F.leaky_relu(net.b(F.relu(net.a(x)))),
    "rows of positions": lambda net, x: F.relu(net.b(net.a(x[:, None] * torch.arange(3).view(3, 1)).relu())).mean(1),
    "a product of two branches": lambda net, x: net.a(x) * net.b(x[:, :4]),
    "an unused layer": lambda net, x: net.a(x),
    "a bend before the parameters": lambda net, x: net.a(torch.tanh(x)),
}


@pytest.mark.parametrize("steps", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_piecewise_linear_steps_are_exact(steps, loss):
    model, data = problem(dense(steps))
    check(model, data, True, loss)


def test_residual_networks():
    check(*problem(residual()), True)
    check(*problem(residual(torch.tanh)), False)
    check(*problem(residual(torch.tanh)), True, parameters="head.*")
    check(*problem(residual(torch.tanh)), False, parameters="first.*")


def test_tied_parametrized_and_hooked_layers():
    tied = chain(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[4].weight = tied[2].weight
    for hiding in (tied, chain(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))):
        model, data = problem(hiding)
        assert exact_traces(HessianOperator(model, "mse", data)) is None
    model, data = problem(chain())
    model[1].register_forward_hook(lambda module, inputs, output: output**3)
    check(model, data, False)


def test_train_mode_batch_norm_is_inexact():
    model, data = problem(chain(nn.BatchNorm1d(4), nn.ReLU()))
    check(model, data, True)
    check(model, data, False, batch_norm="train")
    assert not trace(GaussNewtonOperator(model, "mse", data, batch_norm="train")).exact
    check(*problem(chain(nn.BatchNorm1d(4, track_running_stats=False))), False, chunk_size=7)


def test_losses_of_every_kind():
    model, (x, y) = problem(chain(nn.ReLU()))
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64))
    check(model, (x, y), True, weighted)
    check(model, (x, torch.where(y == 1, -100, y)), True)
    check(model, (x, torch.rand(7, 3, dtype=torch.float64).softmax(1)), True)
    check(model, (x, y), True, lambda output, target: output.sin().mean())
    check(model, (x, y), True, lambda output, target: output.mean())
    check(model, (x, y), False, lambda output, target: -output.log_softmax(0)[:, 0].mean())


def test_parts_of_a_chunk(monkeypatch):
    monkeypatch.setattr("flatlib.curvature.traces.exact.PART_MEMORY", 8 * 500)
    for loss in LOSSES:
        check(*problem(residual()), True, loss)
    model, (x, y) = problem(residual())
    check(model, (x, torch.where(y == 1, -100, y)), True)


def test_confident_networks_keep_their_digits():
    """tr H = 2 p (1 - p) (|x|^2 + 1) of two classes, down to 1 - p = 1e-26."""
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([60.0, 0.0]))
    data = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    small = torch.tensor(-60.0, dtype=torch.float64).sigmoid()
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = trace(HessianOperator(layer, "cross_entropy", data, dtype=dtype))
        assert found.value == pytest.approx(4 * float(small), rel=rel)
