"""torchvision's residual networks for small images."""

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import he_normal_
from flatlib.training.models.shapes import Shape, scale_width

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, and the stride that the stage begins with
BLOCKS = 2


def resnet18(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with one 3 x 3 convolution, without stride and max pooling, as its stem.

    So small images keep their resolution (MacDonald et al. 2023 train ResNet-18 on CIFAR). Batch norm follows every
    convolution, and convolutions are initialized as torchvision's. Images of any size fit.
    """
    from torchvision.models.resnet import BasicBlock, conv3x3  # takes seconds to import

    inputs = scale_width(STAGES[0][0], config.width)
    layers: list[nn.Module] = [conv3x3(shape[0], inputs), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
    for channels, stride in STAGES:
        outputs = scale_width(channels, config.width)
        layers.append(first_block(inputs, outputs, stride))
        layers += [BasicBlock(outputs, outputs) for _ in range(BLOCKS - 1)]
        inputs = outputs
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    network = nn.Sequential(*layers, *head)
    he_normal_(network)
    return network


def first_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the block that begins a stage; where it changes the shape, its shortcut is a 1 x 1 convolution."""
    from torchvision.models.resnet import BasicBlock, conv1x1

    if stride == 1 and inputs == outputs:
        return BasicBlock(inputs, outputs)
    shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)
