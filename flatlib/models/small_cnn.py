"""A convolutional network for laptops."""

import math

from torch import nn

from flatlib.config import RunConfig
from flatlib.models.sizes import Shape, require_pixels, scaled
from flatlib.models.start import with_normal_convolutions


def small_cnn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Four convolutions and a linear layer, for laptops: 20,794 parameters at width 1 on 32 x 32 colour images.

    Its convolutions start as those of `vgg11` do.
    """
    channels, height, width = shape
    require_pixels(config.model, shape, 7)
    w = scaled(8, config.width)
    pixels = math.ceil(height / 2) // 4 * (math.ceil(width / 2) // 4)
    network = nn.Sequential(
        *(nn.Conv2d(channels, w, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2 * w, 4 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(4 * w * pixels, classes),
    )
    return with_normal_convolutions(network)
