"""Layers with second derivatives of their own: against finite differences, and against PyTorch's own."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from central_differences import assert_measured, jacobian
from conftest import Net
from flatlib.curvature import GaussNewtonOperator
from flatlib.curvature.operators.double_backward import FastDoubleBackward, TwiceDifferentiable

CONVOLUTIONS = [
    nn.Conv2d(2, 4, 3),
    nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(4, 4, (3, 1), padding=(2, 0), dilation=(2, 1), groups=2),
    nn.Conv1d(3, 2, 2, stride=2),
    nn.Conv3d(1, 2, 2, padding=1),
    nn.Conv2d(2, 4, 3, padding="same"),
    nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
]
NORMS = [nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm3d(3, momentum=None)]


def image(layer):
    sizes = {"1d": [5], "2d": [5, 4], "3d": [3, 2, 3]}[type(layer).__name__[-2:]]
    channels = getattr(layer, "in_channels", None) or layer.num_features
    return torch.randn(4, channels, *sizes, dtype=torch.float64, requires_grad=True)


def called(layer):
    """The layer as a function of its input and parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        with FastDoubleBackward():
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    return function


@pytest.mark.parametrize(
    ("layer", "training"), [(layer, False) for layer in CONVOLUTIONS] + list(product(NORMS, (True, False))), ids=str
)
def test_layers_agree_with_finite_differences(layer, training):
    torch.manual_seed(0)
    layer = layer.double()
    x = image(layer)
    layer.train()(x.detach() * 3 + 1)  # running statistics that are not those of x
    layer.train(training)
    if getattr(layer, "affine", False):  # a norm, whose weights start at one
        nn.init.normal_(layer.weight)
    arguments = (x, *layer.parameters())
    torch.testing.assert_close(called(layer)(*arguments), layer(x), rtol=0, atol=0)
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments, fast_mode=True)


def test_running_statistics_agree_with_pytorch():
    x = torch.randn(6, 3, 4, 4)
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with FastDoubleBackward():
        ours(x)
    theirs(x)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


def hessian_product(build, v):
    model, x, y = build()
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
    return torch.cat([p.flatten() for p in torch.autograd.grad(gradient, parameters, v)])


@pytest.mark.parametrize("training", [True, False])
def test_products_are_those_of_pytorch(training):
    """Also called as functions, in channels-last memory, and with frozen first layers."""

    def forward(net, x):
        x = F.conv2d(input=x, weight=net.first.weight, bias=net.first.bias, stride=2)
        return F.conv2d(net.norm(x).relu(), net.second.weight, groups=1).mean((2, 3))

    def build():
        torch.manual_seed(0)
        x = torch.randn(6, 3, 9, 9, dtype=torch.float64).to(memory_format=torch.channels_last)
        convolutions = {"first": nn.Conv2d(3, 4, 3), "second": nn.Conv2d(4, 5, 3, bias=False)}
        return Net(forward, **convolutions, norm=nn.BatchNorm2d(4)).double().train(training), x, torch.arange(6) % 5

    v = [torch.randn_like(p) for p in build()[0].parameters()]
    with FastDoubleBackward():
        ours = hessian_product(build, v)
    torch.testing.assert_close(ours, hessian_product(build, v), rtol=1e-10, atol=1e-12)


def test_a_third_derivative_is_right():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def second(x, w):
        with FastDoubleBackward():
            (first,) = torch.autograd.grad(F.conv2d(x, w).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), w, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (x, w))


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_of_batch_norm_up_to_the_fourth(training):
    torch.manual_seed(0)
    x, w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 2), (2,), (2,)))
    mean, variance = torch.randn(2, dtype=torch.float64), torch.rand(2, dtype=torch.float64) + 0.5

    def composed(x):
        v, m = torch.var_mean(x, 0, correction=0) if training else (variance, mean)
        return (x - m) * (v + 1e-5).rsqrt() * w + b

    with FastDoubleBackward():
        ours = F.batch_norm(x, mean.clone(), variance.clone(), w, b, training)
    values = [ours.pow(3).sum(), composed(x).pow(3).sum()]
    for _ in range(4):
        gradients = [torch.autograd.grad(v, (x, w, b), create_graph=True, materialize_grads=True) for v in values]
        torch.testing.assert_close(*gradients)
        values = [sum(g.square().sum() for g in gradient) for gradient in gradients]


def test_cumulative_sums_of_exponentials():
    """At the gradient zero, where that of PyTorch has no derivative, which the Gauss-Newton matrix needs."""
    torch.manual_seed(0)
    for function in (torch.logcumsumexp, lambda x, dim: x.logcumsumexp(dim)):
        model = Net(lambda net, x, function=function: function(net.layer(x), 1), layer=nn.Linear(2, 3)).double()
        data = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
        assert_measured(model, F.mse_loss, data)
        slopes = jacobian(model, data)
        found = GaussNewtonOperator(model, F.mse_loss, data).to_dense()
        torch.testing.assert_close(found, 2 * slopes.T @ slopes / len(slopes), rtol=1e-6, atol=1e-8)
    with TwiceDifferentiable():
        x = torch.tensor([[-900.0, 800.0, -torch.inf], [1.0, 2.0, 3.0]])
        found = x.logcumsumexp(0), torch.logcumsumexp(x[0, 0], 0)
    torch.testing.assert_close(found, (x.logcumsumexp(0), x[0, 0]))
