"""Networks of linear layers only."""

import math

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.shapes import Shape, scale_width


def softmax_regression(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build one linear layer: 7850 parameters on MNIST (Granziol 2020, section 4.1)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build `depth` hidden layers of 200 units times `width`, as in Cohen et al. 2021.

    They have PyTorch's default initialization. `dropout` applies to every hidden layer, as in Kaur et al. 2022, section
    3.4, which has two.
    """
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[config.activation]
    units = scale_width(200, config.width)
    layers = [nn.Flatten(), *hidden_layer(math.prod(shape), units, activation(), config.dropout)]
    for _ in range(config.depth - 1):
        layers += hidden_layer(units, units, activation(), config.dropout)
    return nn.Sequential(*layers, nn.Linear(units, classes))


def hidden_layer(inputs: int, units: int, activation: nn.Module, dropout: float) -> list[nn.Module]:
    """Return a linear layer, its activation and, if `dropout` is positive, dropout of its units."""
    layers = [nn.Linear(inputs, units), activation]
    return [*layers, nn.Dropout(dropout)] if dropout else layers
