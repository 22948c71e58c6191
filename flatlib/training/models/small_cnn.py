"""A convolutional network for laptops, with batch norm and without."""

import math

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import he_normal_
from flatlib.training.models.shapes import Shape, require_image_size, scale_width


def small_cnn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build four convolutions and a linear layer, for laptops: 20,794 parameters at width 1 on 32 x 32 colour images.

    Its convolutions start as those of `vgg11` do.
    """
    return _small_cnn(config, shape, classes, batch_norm=False)


def small_cnn_bn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build `small_cnn` with batch norm after each convolution, from the same start: 20,970 parameters."""
    return _small_cnn(config, shape, classes, batch_norm=True)


def _small_cnn(config: RunConfig, shape: Shape, classes: int, *, batch_norm: bool) -> nn.Module:
    """Build convolution, batch norm if requested, and ReLU, four times, with three halvings of the image's sides."""
    channels, height, width = shape
    require_image_size(config.model, shape, 7)
    w = scale_width(8, config.width)
    pixels = math.ceil(height / 2) // 4 * (math.ceil(width / 2) // 4)

    def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        return [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]

    network = nn.Sequential(
        *block(channels, w, 5, stride=2),
        *(*block(w, 2 * w, 3), nn.MaxPool2d(2)),
        *(*block(2 * w, 4 * w, 3), nn.MaxPool2d(2)),
        *block(4 * w, 4 * w, 3),
        nn.Flatten(),
        nn.Linear(4 * w * pixels, classes),
    )
    he_normal_(network)
    return network
