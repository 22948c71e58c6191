"""Optimizers against recursions written out by hand and against their libraries; SAM against its formula."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_optimizer import AdaBound, AdaShift
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.training.optim import SCHEDULES, averaged_network, batch_gradient, build_optimizer, sam_gradient
from flatlib.training.optim.optimizers import set_learning_rate
from flatlib.training.optim.schedules import learning_rate_at

RATE, BETA, DECAY, STEPS = 0.1, 0.9, 0.05, 12
CURVATURES = np.array([2.0, 0.5, 0.1])
START = np.array([1.0, -2.0, 3.0])


def heavy_ball(w, g, state, t):
    state["u"] = BETA * state.get("u", 0.0) + g
    return w - RATE * state["u"]


def nesterov(w, g, state, t):
    state["u"] = BETA * state.get("u", 0.0) + g
    return w - RATE * (g + BETA * state["u"])


def adam(w, g, state, t):
    """Kingma and Ba 2015, algorithm 1."""
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    return w - RATE * (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-8)


def adagrad(w, g, state, t):
    state["sum"] = state.get("sum", 0.0) + g**2
    return w - RATE * g / (np.sqrt(state["sum"]) + 1e-10)


def adabound(w, g, state, t):
    """Luo et al. 2019, algorithm 1, bounds around 0.1, in PyTorch's bias-corrected form."""
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    low, high = 0.1 * (1 - 1 / (1e-3 * t + 1)), 0.1 * (1 + 1 / (1e-3 * t))
    rate = RATE * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (np.sqrt(state["v"]) + 1e-8)
    return w - np.clip(rate, low, high) * state["m"]


BY_HAND = {update.__name__: update for update in (heavy_ball, nesterov, adam, adagrad, adabound)} | {
    "sgd": lambda w, g, state, t: w - RATE * g,
    "adamw": adam,
}


def config(optimizer: str, **settings) -> RunConfig:
    momentum = BETA if optimizer in ("heavy_ball", "nesterov") else 0.0
    return RunConfig(optimizer=optimizer, momentum=momentum, learning_rate=RATE, **settings)


def trajectory(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> np.ndarray:
    points = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (0.5 * torch.as_tensor(CURVATURES) @ weight.square()).backward()
        optimizer.step()
        points.append(weight.detach().numpy().copy())
    return np.array(points)


def on_the_quadratic(settings: RunConfig) -> np.ndarray:
    weight = nn.Parameter(torch.tensor(START))
    return trajectory(build_optimizer([weight], settings), weight)


def by_hand(update, decay: float = 0.0, kind: str = "l2") -> np.ndarray:
    w, state, points = START.copy(), {}, []
    for t in range(1, STEPS + 1):
        g = CURVATURES * w + (decay * w if kind == "l2" else 0.0)
        before = w
        w = update(w, g, state, t)
        if kind == "decoupled":
            w = w - RATE * decay * before
        points.append(w.copy())
    return np.array(points)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "l2") for name in ("sgd", "heavy_ball", "nesterov", "adam", "adagrad", "adabound")],
        *[(name, "decoupled") for name in ("sgd", "adam", "adamw", "adabound")],
    ],
)
def test_recursions_and_weight_decay(name, kind):
    plain = on_the_quadratic(config(name))
    np.testing.assert_allclose(plain, by_hand(BY_HAND[name]), rtol=1e-7, atol=1e-9)
    found = on_the_quadratic(config(name, weight_decay=DECAY, weight_decay_kind=kind))
    if (name, kind) != ("adabound", "decoupled"):
        np.testing.assert_allclose(found, by_hand(BY_HAND[name], DECAY, kind), rtol=1e-7, atol=1e-9)
    # On a bowl along the axes L2 multiplies each gradient by a number, which adaptive methods divide out again.
    changes_nothing = kind == "l2" and name in ("adam", "adagrad", "adabound")
    assert (np.abs(found - plain).max() > 1e-4) != changes_nothing


@pytest.mark.parametrize(("name", "kind"), [("adashift", AdaShift), ("adabound", AdaBound)])
def test_package_optimizers(name, kind):
    weight = nn.Parameter(torch.tensor(START))
    expected = trajectory(kind([weight], lr=RATE), weight)
    np.testing.assert_array_equal(on_the_quadratic(config(name)), expected)
    assert np.abs(expected[-1] - START).max() > 1e-3


def test_schedules():
    granziol = SCHEDULES["granziol"]
    expected = {0: 1, 0.25: 1, 0.5: 1, 0.6: 0.7525, 0.7: 0.505, 0.9: 0.01, 0.99: 0.01}
    assert {p: granziol(p) for p in expected} == pytest.approx(expected)
    assert SCHEDULES["constant"](0.99) == 1


def test_schedule_before_averaging():
    """Equation 15 of Granziol 2020: linear from half of the epochs before averaging to nine tenths, then constant."""
    settings = {"learning_rate": 0.2, "stop": "epochs", "max_epochs": 40, "averaging_start": 0.5}
    config = RunConfig(schedule="granziol_averaging", averaging_learning_rate=0.1, **settings)
    expected = {0: 0.2, 10: 0.2, 12: 0.175, 14: 0.15, 17: 0.1125, 18: 0.1, 19: 0.1, 20: 0.1, 39: 0.1}
    assert {epoch: learning_rate_at(config, epoch) for epoch in expected} == pytest.approx(expected)
    rising = replace(config, averaging_learning_rate=0.4)
    assert learning_rate_at(rising, 14) == pytest.approx(0.3)
    at_once = replace(config, schedule="constant")
    assert [learning_rate_at(at_once, epoch) for epoch in (18, 19, 20)] == [0.2, 0.2, 0.1]
    assert learning_rate_at(replace(config, averaging_start=0.0), 0) == 0.1


def test_set_learning_rate():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights], lr=0.1)
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    with pytest.raises(FlatlibError, match="must be positive"):
        set_learning_rate(optimizer, 0.0)


def flat(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BATCH = X, torch.arange(12) % 3


def gradient_at(model, batch, step=0.0) -> torch.Tensor:
    moved = copy.deepcopy(model)
    weights = nn.utils.parameters_to_vector(moved.parameters()) + step
    nn.utils.vector_to_parameters(weights, moved.parameters())
    batch_gradient(moved, F.cross_entropy, batch)
    return flat(moved)


@pytest.mark.parametrize("sam_batch", [None, 12, 4, 5])
def test_sam_by_hand(sam_batch):
    model, rho, size = network(), 0.2, sam_batch or 12
    groups = list(zip(X.split(size), BATCH[1].split(size), strict=True))
    expected = 0
    for group in groups:
        g = gradient_at(model, group)
        expected = expected + len(group[0]) / 12 * gradient_at(model, group, rho * g / g.norm())
    before = copy.deepcopy(model.state_dict())
    sam_gradient(model, F.cross_entropy, BATCH, rho, sam_batch=sam_batch)
    torch.testing.assert_close(flat(model), expected, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_sam_at_a_minimum():
    model = network()
    sam_gradient(model, lambda output, target: 0 * output.sum(), BATCH, 0.3)
    assert (flat(model) == 0).all()


def test_sam_updates_statistics_once():
    plain, sam = network(), network()
    batch_gradient(plain, F.cross_entropy, BATCH)
    sam_gradient(sam, F.cross_entropy, BATCH, 0.5)
    assert int(sam[1].num_batches_tracked) == 1
    assert torch.equal(sam[1].running_mean, plain[1].running_mean)
    assert torch.equal(sam[1].running_var, plain[1].running_var)


def test_sam_restores_weights_after_errors():
    model, calls = network(), []

    def failing(output, target):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        sam_gradient(model, failing, BATCH, 0.5)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("microbatch", [1, 5, 12, 100])
def test_microbatches(microbatch):
    whole, parts = network().eval(), network().eval()
    batch_gradient(whole, F.cross_entropy, BATCH)
    batch_gradient(parts, F.cross_entropy, BATCH, microbatch)
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-10, atol=1e-14)


def test_average():
    model = network()
    average, iterates = AveragedModel(model), []
    for _ in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
        average.update_parameters(model)
        iterates.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    found = averaged_network(average, lambda: X.split(5))
    weights = nn.utils.parameters_to_vector(found.parameters())
    torch.testing.assert_close(weights, torch.stack(iterates).mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1].running_mean, found[0](X).mean(0))
    torch.testing.assert_close(found[1].running_var, found[0](X).var(0))
