"""Initialization of convolutions, in place; linear layers and batch norm keep PyTorch's in every network."""

import math

from torch import nn


def he_normal_(network: nn.Module) -> None:
    """Initialize every convolution from N(0, 2 / n), n = (kernel area) x (output channels), with zero biases.

    This is He et al. 2015 by fan-out, as in the code of Cohen et al. 2021 and Kaur et al. 2022, torchvision's ResNet,
    and the VGG and pre-activation networks in the code of Izmailov et al. 2018 that Granziol 2020 builds on.
    """
    for layer in convolutions(network):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def glorot_normal_(network: nn.Module) -> None:
    """Initialize every convolution from N(0, 2 / (fan in + fan out)) (Glorot & Bengio 2010), with biases of 0.1.

    This is the initialization of DeepOBS's All-CNN (Schneider et al. 2019).
    """
    for layer in convolutions(network):
        nn.init.xavier_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 0.1)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """Return all convolutions in the order of their registration."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]
