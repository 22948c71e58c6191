"""Initialization and structure of the networks, layer by layer."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.config import RunConfig
from flatlib.device import seeded
from flatlib.training.models import build

MNIST, CIFAR, GREY = (1, 28, 28), (3, 32, 32), (1, 32, 32)


def layers(kind: type, model: str, shape: tuple = CIFAR, **settings) -> list:
    network = build(RunConfig(model=model, **settings), shape, 10)
    return [module for module in network.modules() if isinstance(module, kind)]


def assert_spread(weight: torch.Tensor, expected: float) -> None:
    """The estimated standard deviation of n values is off by about 1 / sqrt(2 n)."""
    assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        *[(model, CIFAR) for model in ("small_cnn", "small_cnn_bn", "vgg11", "vgg16_bn", "resnet18", "preresnet164")],
        *[(model, GREY) for model in ("vgg11", "vgg11_bn", "resnet18")],
    ],
)
def test_he_normal(model, shape):
    """N(0, 2 / (kernel area x output channels))."""
    for layer in layers(nn.Conv2d, model, shape):
        assert_spread(layer.weight.detach(), math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
        assert layer.bias is None or layer.bias.abs().max() == 0


@pytest.mark.parametrize("seed", [0, 5])
def test_batch_norm_keeps_initialization(seed):
    """One draw of the layers that both have; batch norm starts with scale 1 and shift 0, after each convolution."""
    settings = {"width": 0.5, "seed": seed}
    for kind in (nn.Conv2d, nn.Linear):
        pairs = zip(layers(kind, "small_cnn", **settings), layers(kind, "small_cnn_bn", **settings), strict=True)
        for plain, normalized in pairs:
            assert torch.equal(plain.weight, normalized.weight)
            assert torch.equal(plain.bias, normalized.bias)
    for norm in layers(nn.BatchNorm2d, "small_cnn_bn", **settings):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    kinds = [type(layer) for layer in build(RunConfig(model="small_cnn_bn"), CIFAR, 10)]
    places = [i for i, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert len(places) == 4
    assert all(kinds[i + 1 : i + 3] == [nn.BatchNorm2d, nn.ReLU] for i in places)


def test_allcnn_starts_as_in_deepobs():
    for layer in layers(nn.Conv2d, "allcnn"):
        area = math.prod(layer.kernel_size)
        assert_spread(layer.weight.detach(), math.sqrt(2 / (area * (layer.in_channels + layer.out_channels))))
        assert torch.equal(layer.bias.detach(), torch.full((layer.out_channels,), 0.1))


@pytest.mark.parametrize("model", ["wideresnet28x10", "bejan_simple", "bejan_middle", "bejan_complex", "mlp"])
def test_pytorch_defaults(model):
    """Weights and biases uniform in +- 1 / sqrt(fan in)."""
    for layer in layers((nn.Conv2d, nn.Linear), model):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert_spread(layer.weight.detach(), bound / math.sqrt(3))
        assert max(layer.weight.abs().max(), layer.bias.abs().max()) <= bound


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_activation_and_depth(activation, kind):
    settings = {"activation": activation, "depth": 3, "width": 0.05}
    assert len(layers(kind, "mlp", MNIST, **settings)) == 3
    assert len(layers(nn.Linear, "mlp", MNIST, **settings)) == 4


@pytest.mark.parametrize("model", ["bejan_simple", "bejan_middle", "bejan_complex"])
def test_bejan_normalizes_after_activation(model):
    kinds = [type(layer) for layer in build(RunConfig(model=model, width=0.1), MNIST, 10)]
    for i, kind in enumerate(kinds):
        if kind is nn.Conv2d:
            assert kinds[i + 1 : i + 3] == [nn.ReLU, nn.BatchNorm2d]
    assert kinds[-4:] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


def test_allcnn_logits():
    x = torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(0))
    network = build(RunConfig(model="allcnn", width=0.2), CIFAR, 10)
    maps = network[:-2](x)
    assert maps.shape == (4, 10, 6, 6)
    assert maps.min() == 0
    torch.testing.assert_close(network(x), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("model", ["preresnet164", "wideresnet28x10"])
def test_preactivation_blocks(model):
    network = build(RunConfig(model=model, width=0.2), CIFAR, 10).eval()
    first, second = network[1], network[2]
    x = network[0](torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0)))
    inside = first(x)
    assert torch.equal(inside, first.shortcut(x) + first.branch(x))
    assert torch.equal(second(inside), inside + second.branch(inside))
    assert type(next(iter(second.branch))) is nn.BatchNorm2d
    sizes = [block(torch.zeros(1, block.branch[0].num_features, 8, 8)).shape[-1] for block in network[1:-5]]
    assert sizes.count(4) == 2
    assert set(sizes) == {4, 8}


@pytest.mark.parametrize("model", ["mlp", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"])
def test_hidden_layers_have_dropout(model):
    network = build(RunConfig(model=model, width=0.1, dropout=0.3), CIFAR, 10)
    kinds = [type(layer) for layer in network if not isinstance(layer, nn.Sequential)]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [nn.Flatten, *hidden, *hidden, nn.Linear]
    assert {layer.p for layer in network if isinstance(layer, nn.Dropout)} == {0.3}


@pytest.mark.parametrize("model", ["mlp", "vgg11"])
def test_dropout_keeps_initialization(model):
    config = RunConfig(model=model, width=0.1)
    plain, dropping = build(config, CIFAR, 10), build(replace(config, dropout=0.5), CIFAR, 10)
    assert not any(isinstance(layer, nn.Dropout) for layer in plain.modules())
    for p, q in zip(plain.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(p, q)
    x = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval()(x), dropping.eval()(x))
    with seeded(0, torch.device("cpu")):
        assert not torch.equal(plain.train()(x), dropping.train()(x))
