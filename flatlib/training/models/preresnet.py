"""Residual networks with batch norm and ReLU before every convolution (He et al. 2016), as Granziol 2020 trains them.

They follow the code of Izmailov et al. 2018, which gives the numbers of parameters that Granziol 2020 reports: a
shortcut which changes the shape takes the block's input itself, and the second convolution of a block has the stride.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import he_normal_
from flatlib.training.models.shapes import Shape, scale_width


def preresnet164(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build 164 layers in bottleneck blocks: 1,726,388 parameters on CIFAR-100 (Granziol 2020, section 4).

    Three stages of 18 blocks, each of a 1 x 1, a 3 x 3 and a 1 x 1 convolution without biases, which start as
    torchvision's ResNet does. Images of any size fit.
    """
    stem, *planes = (scale_width(channels, config.width) for channels in (16, 16, 32, 64))
    stages = [(p, p, 4 * p) for p in planes]
    network = preactivation_network((shape[0], stem), stages, classes, blocks=18, kernels=(1, 3, 1), bias=False)
    he_normal_(network)
    return network


def wideresnet28x10(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build 28 layers, ten times as wide as a ResNet: 36,546,980 parameters on CIFAR-100 (Granziol 2020, section 4).

    Zagoruyko & Komodakis 2016, without dropout, with biases in the convolutions (36,536,884 parameters without them).
    All layers start from PyTorch's defaults: the code of Izmailov et al. 2018 never calls its `conv_init`. It gives the
    last batch norm a momentum of 0.9; Granziol's own estimates the statistics again after every epoch, and here the
    momentum is PyTorch's 0.1 throughout. Images of any size fit.
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
