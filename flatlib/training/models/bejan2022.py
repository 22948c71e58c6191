"""The three convolutional networks of Bejan, Sanchez Ndoye & Vuckovic 2022, for FashionMNIST and CIFAR-10.

Their text gives the number of convolutions (4, 6 and 9), ReLU, batch norm and two linear layers. The rest is that of
their code: batch norm after the ReLU, 3 x 3 kernels, max pooling, the size of the hidden layer, PyTorch's default
initialisation. The code ends in a log-softmax over the batch dimension, an error that is not part of these networks.
"""

from collections.abc import Sequence

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.shapes import Shape, require_image_size, scale_width

Groups = Sequence[Sequence[int]]  # output channels of the convolutions before each max pooling


def bejan_simple(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build SimpleBatch: four convolutions, not padded, and a hidden layer of 128 units."""
    return _convolutional(config, shape, classes, groups=((16, 32), (64, 128)), hidden=128, padding=0)


def bejan_middle(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build MiddleBatch: six padded convolutions and a hidden layer of 512 units."""
    return _convolutional(config, shape, classes, groups=((16, 32), (64, 128), (256, 512)), hidden=512, padding=1)


def bejan_complex(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build ComplexBatch: nine padded convolutions and a hidden layer of 512 units."""
    groups = ((16, 32, 32), (64, 128, 128), (256, 512, 512))
    return _convolutional(config, shape, classes, groups=groups, hidden=512, padding=1)


def _convolutional(
    config: RunConfig, shape: Shape, classes: int, *, groups: Groups, hidden: int, padding: int
) -> nn.Module:
    """Build groups of convolution, ReLU and batch norm, each group with a max pooling, and two linear layers."""
    inputs, height, width = shape
    shrinks = 2 - 2 * padding  # pixels that a 3 x 3 kernel takes from each side's length
    least = 1
    for group in reversed(groups):
        least = 2 * least + shrinks * len(group)
    require_image_size(config.model, shape, least)
    layers: list[nn.Module] = []
    for group in groups:
        for channels in group:
            outputs = scale_width(channels, config.width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU(), nn.BatchNorm2d(outputs)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
        height, width = ((side - shrinks * len(group)) // 2 for side in (height, width))
    units = scale_width(hidden, config.width)
    head = (nn.Linear(inputs * height * width, units), nn.ReLU(), nn.Linear(units, classes))
    return nn.Sequential(*layers, nn.Flatten(), *head)
