"""Residual networks: torchvision's ResNet-18 for small images, and the pre-activation networks of Granziol 2020.

The latter have batch norm and ReLU before every convolution (He et al. 2016). They follow the code of Izmailov et al.
2018, which gives the numbers of parameters that Granziol 2020 reports: a shortcut which changes the shape takes the
block's input itself, and the second convolution of a block has the stride. Images of any size fit all of them.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.training.models.layers import Shape, he_normal_, scale_width

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # ResNet-18: channels, and the stride that the stage begins with


def resnet18(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 with one 3 x 3 convolution, without stride and max pooling, as its stem.

    So small images keep their resolution (MacDonald et al. 2023 train ResNet-18 on CIFAR). Batch norm follows every
    convolution, and convolutions are initialized as torchvision's.
    """
    from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3  # takes seconds to import

    inputs = scale_width(STAGES[0][0], config.width)
    layers: list[nn.Module] = [conv3x3(shape[0], inputs), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
    for channels, stride in STAGES:
        outputs = scale_width(channels, config.width)
        shortcut = None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        layers += [BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs)]
        inputs = outputs
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return he_normal_(nn.Sequential(*layers, *head))


def preresnet164(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build 164 layers in bottleneck blocks: 1,726,388 parameters on CIFAR-100 (Granziol 2020, section 4).

    Three stages of 18 blocks, each of a 1 x 1, a 3 x 3 and a 1 x 1 convolution without biases, which start as
    torchvision's ResNet does.
    """
    stem, *planes = (scale_width(channels, config.width) for channels in (16, 16, 32, 64))
    stages = [(p, p, 4 * p) for p in planes]
    return he_normal_(
        preactivation_network((shape[0], stem), stages, classes, blocks=18, kernels=(1, 3, 1), bias=False)
    )


def wideresnet28x10(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build 28 layers, ten times as wide as a ResNet: 36,546,980 parameters on CIFAR-100 (Granziol 2020, section 4).

    Zagoruyko & Komodakis 2016, without dropout, with biases in the convolutions (36,536,884 parameters without them).
    All layers start from PyTorch's defaults: the code of Izmailov et al. 2018 never calls its `conv_init`. It gives the
    last batch norm a momentum of 0.9; Granziol's own estimates the statistics again after every epoch, and here the
    momentum is PyTorch's 0.1 throughout.
    """
    stem, *planes = (scale_width(channels, config.width) for channels in (16, 160, 320, 640))
    stages = [(p, p) for p in planes]
    return preactivation_network((shape[0], stem), stages, classes, blocks=4, kernels=(3, 3), bias=True)


def preactivation_network(
    stem: tuple[int, int],
    stages: Sequence[Sequence[int]],
    classes: int,
    *,
    blocks: int,
    kernels: Sequence[int],
    bias: bool,
) -> nn.Sequential:
    """Build a 3 x 3 convolution, stages of blocks, all but the first of which halve the image, and a linear layer.

    Args:
        stem: Channels of an image and of the first convolution.
        stages: Output channels of the convolutions in each block, stage by stage.
        classes: Number of classes.
        blocks: Number of blocks per stage.
        kernels: Kernel sizes of the convolutions in a block.
        bias: Use biases in the convolutions.
    """
    layers: list[nn.Module] = [nn.Conv2d(*stem, 3, padding=1, bias=bias)]
    inputs = stem[1]
    for i, outputs in enumerate(stages):
        for j in range(blocks):
            layers.append(PreActivationBlock((inputs, *outputs), kernels, stride=2 if i and not j else 1, bias=bias))
            inputs = outputs[-1]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), *head)


class PreActivationBlock(nn.Module):
    """Block $s(x) + f(x)$ with a chain f of batch norm, ReLU and convolution (He et al. 2016, figure 1b).

    The shortcut s is the identity, or a 1 x 1 convolution where the shape changes.
    """

    def __init__(self, channels: Sequence[int], kernels: Sequence[int], *, stride: int, bias: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            step = stride if i == 1 else 1
            convolution = nn.Conv2d(channels[i], channels[i + 1], kernel, step, padding=kernel // 2, bias=bias)
            layers += [nn.BatchNorm2d(channels[i]), nn.ReLU(inplace=True), convolution]
        self.branch = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels[0] != channels[-1]:
            self.shortcut = nn.Conv2d(channels[0], channels[-1], 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the shortcut and the branch."""
        return self.shortcut(x) + self.branch(x)
