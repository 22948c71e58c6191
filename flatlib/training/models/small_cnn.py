"""A convolutional network for laptops, with batch norm and without."""

import math

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import he_normal_
from flatlib.training.models.shapes import Shape, require_image_size, scale_width


def small_cnn(config: RunConfig, shape: Shape, classes: int, *, batch_norm: bool = False) -> nn.Module:
    """Build four convolutions, which halve the image three times, and a linear layer.

    It has 20,794 parameters at width 1 on 32 x 32 colour images, and 20,970 with batch norm after each convolution; the
    initialization is the same, and that of the VGGs.
    """
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
