"""Layers with second derivatives of their own: against finite differences, and against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.curvature.operators.double_backward import FastDoubleBackward

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


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=repr)
def test_convolutions_agree_with_finite_differences(layer):
    torch.manual_seed(0)
    layer = layer.double()
    arguments = (image(layer), *layer.parameters())
    torch.testing.assert_close(called(layer)(*arguments), layer(arguments[0]), rtol=0, atol=0)
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments, fast_mode=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", NORMS, ids=repr)
def test_batch_norm_agrees_with_finite_differences(layer, training):
    torch.manual_seed(0)
    layer = layer.double()
    x = image(layer)
    layer.train()(x.detach() * 3 + 1)  # running statistics that are not those of x
    layer.train(training)
    if layer.affine:
        nn.init.normal_(layer.weight)
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(called(layer), arguments)
    assert torch.autograd.gradgradcheck(called(layer), arguments, fast_mode=True)


def test_running_statistics_agree_with_pytorch():
    x = torch.randn(6, 3, 4, 4)
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with FastDoubleBackward():
        ours(x)
    theirs(x)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)


def product(build, v):
    model, x, y = build()
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
    return torch.cat([p.flatten() for p in torch.autograd.grad(gradient, parameters, v)])


@pytest.mark.parametrize("training", [True, False])
def test_products_are_those_of_pytorch(training):
    """Also called as functions, in channels-last memory, and with frozen first layers."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            x = F.conv2d(input=x, weight=self.first.weight, bias=self.first.bias, stride=2)
            return F.conv2d(self.norm(x).relu(), self.second.weight, groups=1).mean((2, 3))

    def build():
        torch.manual_seed(0)
        x = torch.randn(6, 3, 9, 9, dtype=torch.float64).to(memory_format=torch.channels_last)
        model = Net().double().train(training)
        del model.second.bias
        return model, x, torch.arange(6) % 5

    v = [torch.randn_like(p) for p in build()[0].parameters()]
    with FastDoubleBackward():
        ours = product(build, v)
    torch.testing.assert_close(ours, product(build, v), rtol=1e-10, atol=1e-12)


def test_a_third_derivative_is_right():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def second(x, w):
        with FastDoubleBackward():
            (first,) = torch.autograd.grad(F.conv2d(x, w).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), w, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (x, w))
