"""Networks by name, with a width multiplier. Every one maps images (N, C, H, W) to logits (N, classes)."""

import math

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

Shape = tuple[int, int, int]  # channels, height, width of one image


def build(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """The network of a configuration, initialised from its seed without touching the global random state.

    >>> sum(p.numel() for p in build(RunConfig(model="softmax_regression"), (1, 28, 28), 10).parameters())
    7850
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return BUILDERS[config.model](config, shape, classes)


def softmax_regression(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """One linear layer: 7850 parameters on MNIST (Granziol 2020, section 4.1)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """`depth` hidden layers of 200 units times `width`, as in Cohen et al. 2021; PyTorch's default initialisation.

    Dropout follows every hidden layer (Kaur et al. 2022, section 3.4).
    """
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[config.activation]
    units = scaled(200, config.width)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (math.prod(shape), *[units] * (config.depth - 1)):
        layers += [nn.Linear(inputs, units), activation()]
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(units, classes))


def small_cnn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Four convolutions and a linear layer, for laptops: 20,794 parameters at width 1 on 32 x 32 colour images.

    Its convolutions start as those of `vgg11` do.
    """
    channels, height, width = shape
    w = scaled(8, config.width)
    pixels = math.ceil(height / 2) // 4 * (math.ceil(width / 2) // 4)
    if not pixels:
        raise FlatlibError(f"model small_cnn: needs images of at least 7 x 7 pixels, got {height} x {width}")
    network = nn.Sequential(
        *(nn.Conv2d(channels, w, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2 * w, 4 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4 * w * pixels, classes),
    )
    return with_normal_convolutions(network)


def vgg11(config: RunConfig, shape: Shape, classes: int, *, batch_norm: bool = False) -> nn.Module:
    """torchvision's VGG configuration A for small images, without dropout, as in the code of Cohen et al. 2021.

    Its classifier has two hidden layers of 512 units. `width` multiplies every layer.
    """
    channels, height, width = shape
    if min(height, width) < 32:
        raise FlatlibError(f"model {config.model}: needs images of at least 32 x 32 pixels, got {height} x {width}")
    plan = [item if item == "M" else scaled(item, config.width) for item in cfgs["A"]]
    features = make_layers(plan, batch_norm=batch_norm)
    first = features[0]
    if channels != first.in_channels:
        features[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    hidden = scaled(512, config.width)
    inputs = plan[-2] * (height // 32) * (width // 32)
    return nn.Sequential(
        with_normal_convolutions(features),
        nn.Flatten(),
        *(nn.Linear(inputs, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, classes),
    )


def vgg11_bn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """`vgg11` with batch normalisation after every convolution."""
    return vgg11(config, shape, classes, batch_norm=True)


def with_normal_convolutions(network: nn.Sequential) -> nn.Sequential:
    """Start every convolution from N(0, 2 / n), n = (kernel area) x (output channels), and a zero bias, as the code
    of Cohen et al. 2021 and Kaur et al. 2022 does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
            nn.init.zeros_(layer.bias)
    return network


def scaled(units: int, width: float) -> int:
    """A layer's size times the width multiplier, at least one."""
    return max(1, round(units * width))


BUILDERS = {
    "softmax_regression": softmax_regression,
    "mlp": mlp,
    "small_cnn": small_cnn,
    "vgg11": vgg11,
    "vgg11_bn": vgg11_bn,
}
