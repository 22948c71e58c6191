"""The all-convolutional network of Springenberg et al. 2015."""

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import glorot_normal_
from flatlib.training.models.shapes import Shape, require_image_size, scale_width


def allcnn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build All-CNN-C (Springenberg et al. 2015, table 1): 1,387,108 parameters on CIFAR-100 (Granziol 2020).

    Nine convolutions with biases and without batch norm, of which two halve the image; the averages over the pixels of
    the last one's outputs, after their ReLU, are the logits. It is initialized as in DeepOBS, from which Granziol's
    code takes it. Two differences: that code has dropout (0.2 of the pixels, 0.5 after each halving), which the paper
    does not mention, and pads images of even size on one side only where it halves them.
    """
    channels, *_ = shape
    require_image_size(config.model, shape, 9)
    a, b = scale_width(96, config.width), scale_width(192, config.width)
    network = nn.Sequential(
        *(nn.Conv2d(channels, a, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(a, a, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(a, a, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(b, b, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(b, b, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(b, b, 3), nn.ReLU()),
        *(nn.Conv2d(b, b, 1), nn.ReLU()),
        *(nn.Conv2d(b, classes, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    glorot_normal_(network)
    return network
