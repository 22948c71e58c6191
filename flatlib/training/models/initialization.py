"""How convolutions start. Linear layers and batch norm start as PyTorch starts them, in every network."""

import math

from torch import nn


def he_normal_(network: nn.Sequential) -> nn.Sequential:
    """Start every convolution from N(0, 2 / n), n = (kernel area) x (output channels), and a zero bias, as the code
    of Cohen et al. 2021 and Kaur et al. 2022 does.

    This is He et al. 2015 by fan-out: torchvision's ResNet, and the VGG and pre-activation networks in the code of
    Izmailov et al. 2018 that Granziol 2020 builds on, start alike.
    """
    for layer in convolutions(network):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def glorot_normal_(network: nn.Sequential) -> nn.Sequential:
    """Start every convolution from N(0, 2 / (fan in + fan out)) (Glorot & Bengio 2010) and a bias of 0.1, as the
    All-CNN of DeepOBS (Schneider et al. 2019) does."""
    for layer in convolutions(network):
        nn.init.xavier_normal_(layer.weight)
        nn.init.constant_(layer.bias, 0.1)
    return network


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """All convolutions, in the order in which they were registered."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]
