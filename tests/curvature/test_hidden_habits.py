"""Models and losses that cast, draw, count, or keep their parameters elsewhere: right, or refused in one line."""

import os
import random
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.curvature.operators.measurement_mode import _uninterrupted
from small_hessians import REAL, WEIGHTS, X, Y, assert_refused, assert_right, net


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_models_and_penalties_on_them():
    whole, part = torch.jit.script(net()), net()
    part[0] = torch.jit.script(part[0])
    for model in (whole, part):
        parameters = list(model.parameters())
        loss = lambda o, y: F.cross_entropy(o, y) + sum(p.pow(4).sum() for p in parameters)  # noqa: B023, E731
        assert_right(model, loss, (X, Y), lambda: loss(model(X), Y))  # noqa: B023


class Slotted(nn.Module):
    __slots__ = ("scale",)

    def __init__(self):
        super().__init__()
        self.inner, self.scale = net(), 2.0
        self.integers = nn.Parameter(torch.arange(-7, 8).view(3, 5).char(), requires_grad=False)

    def forward(self, x):
        return self.scale * self.inner(x) + F.linear(x, 0.1 * self.integers.double())


def test_slots_and_quantized_weights():
    model = Slotted()
    assert_right(model, "cross_entropy", (X, Y), lambda: F.cross_entropy(model(X), Y))
    assert "integers" not in HessianOperator(model, "cross_entropy", (X, Y), parameters="*").parameters


class Viewing(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.layer, self.flat = nn.Linear(5, 3).double(), nn.Parameter(torch.zeros(3).double())
        self.kept = view(self.flat)

    def forward(self, x):
        return self.layer(x) + self.kept


def test_memory_that_parameters_share():
    for view in (lambda p: p[:], lambda p: p.data):
        model = Viewing(view)
        assert_refused(model, "cross_entropy", (X, Y), "not the derivative of the loss")
        assert_refused(model, lambda o, y: o.square().mean(), (X, Y), "not the derivative of the loss")
    tied = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    tied[2].weight.data = tied[0].weight.data
    assert_refused(tied, "cross_entropy", (X, Y), "share their memory")


def test_casts_inside_are_to_full_precision():
    inner = net().float()

    def mixed(m, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.inner(x).half().float()

    expected = HessianOperator(inner, "cross_entropy", (X, Y)).to_dense()
    found = HessianOperator(Net(mixed, inner=inner), "cross_entropy", (X, Y)).to_dense()
    torch.testing.assert_close(found, expected)
    weights = WEIGHTS.float()
    loss = lambda o, y: F.cross_entropy(o @ torch.eye(3), y, weights)  # noqa: E731
    assert HessianOperator(inner, loss, (X, Y), dtype=torch.float64).to_dense().dtype == torch.float64


@pytest.mark.parametrize("draw", [random.random, lambda: np.random.rand(), lambda: float(torch.rand(()))])  # noqa: NPY002
def test_random_numbers_are_given_back(draw):
    model = Net(lambda m, x: m.inner(x) * (1 + draw()), inner=net())
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    expected = draw()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    assert_refused(model, "cross_entropy", (X, Y), "draws random|changes whenever")
    assert draw() == expected


def test_losses_that_change_with_every_call():
    count = iter(range(1, 10**6))
    assert_refused(net(), lambda o, y: F.cross_entropy(o, y) * (1 + next(count) / 1e3), (X, Y), "changes whenever")

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("center", torch.zeros(3).double())

        def forward(self, output, target):
            self.center.lerp_(output.detach().mean(0), 0.1)
            return F.cross_entropy(output - self.center, target)

    assert_refused(net(), Centred(), (X, Y), 'changes its buffer "center"')


# Losses.


class Fused(torch.autograd.Function):
    """Cross-entropy with a gradient from the forward pass, whose own derivative is lost."""

    @staticmethod
    def forward(ctx, output, target):
        p = output.softmax(1)
        ctx.slope = (p - F.one_hot(target, p.shape[1])) / len(target)
        return F.nll_loss(p.log(), target)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope, None


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_second_derivatives_that_are_lost(kind):
    loss = lambda o, y: Fused.apply(o, y)  # noqa: E731
    assert_refused(net(), loss, (X, Y), "not the derivative of the gradient", kind=kind)


def test_losses_of_probabilities():
    model = nn.Sequential(net(), nn.Softmax(1))
    negative = lambda o, y: -o[range(len(y)), y].log().mean()  # noqa: E731
    assert_right(model, negative, (X, Y), lambda: negative(model(X), Y), chunk_size=5)


def test_other_signatures_and_shapes():
    model = net()
    loss = lambda model, x, y: F.cross_entropy(model(x), y)  # noqa: E731
    assert_right(model, loss, (X, Y), lambda: loss(model, X, Y), chunk_size=5)
    tasks = Net(lambda m, x: {"a": m.inner(x), "b": m.inner(x)[:, :1]}, inner=net())
    both = lambda o, t: F.cross_entropy(o["a"], t["a"]) + (o["b"] - t["b"]).square().mean()  # noqa: E731
    assert_refused(tasks, both, (X, {"a": Y, "b": REAL[:, 0]}), "are broadcast")
    eight, weights = net(8), torch.arange(1.0, 9).double()  # as many classes as examples are looked at
    loss8 = lambda o, y: F.cross_entropy(o, y, weights)  # noqa: E731
    classes = torch.arange(12) % 8
    assert_right(eight, loss8, (X, classes), lambda: loss8(eight(X), classes))


@pytest.mark.parametrize("seed", range(5))
def test_saturated_losses_are_measured(seed):
    torch.manual_seed(seed)
    model, x = nn.Linear(5, 3).double(), torch.randn(12, 5).double()
    y = model(x).argmax(1)
    loss = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    for scale in (30, 100, 1e3, 1e4):
        HessianOperator(model, "cross_entropy", (scale * x, y)).to_dense()
        HessianOperator(model, loss, [(scale * x, y)]).to_dense()


def test_interrupts_wait():
    done = []

    def restore():
        with _uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("restored")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            restore()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["restored"]
