"""What several networks share: sizes of images and layers, initialization, dropout."""

from torch import nn

from flatlib.errors import FlatlibError

Shape = tuple[int, int, int]  # channels, height, width of one image


def scale_width(units: int, width: float) -> int:
    """Return a layer's size times the width multiplier, at least one."""
    return max(1, round(units * width))


def require_image_size(model: str, shape: Shape, least: int) -> None:
    """Raise a `FlatlibError` unless both sides of an image have `least` pixels."""
    _, height, width = shape
    if min(height, width) < least:
        raise FlatlibError(f"model {model}: needs images of at least {least} x {least} pixels, got {height} x {width}")


def hidden_layer(inputs: int, units: int, activation: nn.Module, dropout: float) -> list[nn.Module]:
    """Return a linear layer, its activation and, if `dropout` is positive, dropout of its units."""
    layers = [nn.Linear(inputs, units), activation]
    return [*layers, nn.Dropout(dropout)] if dropout else layers


def he_normal_(network: nn.Sequential) -> nn.Sequential:
    """Initialize every convolution from N(0, 2 / n), n = (kernel area) x (output channels), with zero biases.

    This is He et al. 2015 by fan-out, as in the code of Cohen et al. 2021 and Kaur et al. 2022, torchvision's ResNet,
    and the VGG and pre-activation networks in the code of Izmailov et al. 2018 that Granziol 2020 builds on. Linear
    layers and batch norm keep PyTorch's initialization, in every network. The network is changed in place and returned.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
