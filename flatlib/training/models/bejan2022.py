"""The three convolutional networks of Bejan, Sanchez Ndoye & Vuckovic 2022, for FashionMNIST and CIFAR-10.

Their text gives the number of convolutions (4, 6 and 9), ReLU, batch norm and two linear layers. The rest is that of
their code: batch norm after the ReLU, 3 x 3 kernels, max pooling, the size of the hidden layer, PyTorch's default
initialisation. The code ends in a log-softmax over the batch dimension, an error that is not part of these networks.
"""

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.layers import Shape, require_image_size, scale_width

# Output channels of the convolutions before each max pooling, units of the hidden layer, and padding
NETWORKS: dict[str, tuple[tuple[tuple[int, ...], ...], int, int]] = {
    "simple": (((16, 32), (64, 128)), 128, 0),
    "middle": (((16, 32), (64, 128), (256, 512)), 512, 1),
    "complex": (((16, 32, 32), (64, 128, 128), (256, 512, 512)), 512, 1),
}


def bejan(config: RunConfig, shape: Shape, classes: int, *, size: str) -> nn.Module:
    """Build SimpleBatch, MiddleBatch or ComplexBatch: groups of convolution, ReLU and batch norm, two linear layers."""
    groups, hidden, padding = NETWORKS[size]
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
