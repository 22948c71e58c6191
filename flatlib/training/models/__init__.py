"""Networks by name, with a width multiplier. Every one maps images (N, C, H, W) to logits (N, classes)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from flatlib.config import RunConfig
from flatlib.device import seeded
from flatlib.training.models.bejan2022 import bejan
from flatlib.training.models.feedforward import allcnn, mlp, small_cnn, softmax_regression, vgg
from flatlib.training.models.layers import Shape
from flatlib.training.models.residual import preresnet164, resnet18, wideresnet28x10

BUILDERS: dict[str, Callable[[RunConfig, Shape, int], nn.Module]] = {
    **{"softmax_regression": softmax_regression, "mlp": mlp},
    **{"small_cnn": small_cnn, "small_cnn_bn": partial(small_cnn, batch_norm=True)},
    **{"vgg11": partial(vgg, letter="A"), "vgg11_bn": partial(vgg, letter="A", batch_norm=True)},
    **{"vgg16": partial(vgg, letter="D"), "vgg16_bn": partial(vgg, letter="D", batch_norm=True)},
    **{"resnet18": resnet18, "preresnet164": preresnet164, "wideresnet28x10": wideresnet28x10, "allcnn": allcnn},
    **{f"bejan_{size}": partial(bejan, size=size) for size in ("simple", "middle", "complex")},
}


def build(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build the network of a configuration, initialized from its seed; the global random state stays as it was.

    Args:
        config: Settings of the network and its seed.
        shape: Channels, height and width of an image.
        classes: Number of classes.

    Raises:
        FlatlibError: If images of this shape are too small for the network.

    >>> sum(p.numel() for p in build(RunConfig(model="softmax_regression"), (1, 28, 28), 10).parameters())
    7850
    """
    with seeded(config.seed, torch.device("cpu")):
        return BUILDERS[config.model](config, shape, classes)
