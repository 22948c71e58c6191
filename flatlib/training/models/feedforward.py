"""Networks without shortcuts: of linear layers, for laptops, VGG and All-CNN."""

import math

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.layers import Shape, he_normal_, hidden_layer, require_image_size, scale_width


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
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (math.prod(shape), *[units] * (config.depth - 1)):
        layers += hidden_layer(inputs, units, activation(), config.dropout)
    return nn.Sequential(*layers, nn.Linear(units, classes))


def small_cnn(config: RunConfig, shape: Shape, classes: int, *, batch_norm: bool = False) -> nn.Module:
    """Build four convolutions, which halve the image three times, and a linear layer.

    It has 20,794 parameters at width 1 on 32 x 32 colour images, and 20,970 with batch norm after each convolution; the
    initialization is the same, and that of the VGGs.
    """
    channels, height, width = shape
    require_image_size(config.model, shape, 7)
    w = scale_width(8, config.width)
    pixels = math.ceil(height / 2) // 4 * (math.ceil(width / 2) // 4)

    def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        return [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]

    network = nn.Sequential(
        *block(channels, w, kernel=5, stride=2),
        *(*block(w, 2 * w), nn.MaxPool2d(2)),
        *(*block(2 * w, 4 * w), nn.MaxPool2d(2)),
        *block(4 * w, 4 * w),
        *(nn.Flatten(), nn.Linear(4 * w * pixels, classes)),
    )
    return he_normal_(network)


def vgg(config: RunConfig, shape: Shape, classes: int, *, letter: str, batch_norm: bool = False) -> nn.Module:
    """Build torchvision's configuration of that letter, for images of at least 32 x 32 pixels.

    Configuration A is VGG-11 (Kaur et al. 2022): eight convolutions and three linear layers. Configuration D is VGG-16,
    with thirteen convolutions (Granziol 2020, section 5, with batch norm). The classifier has two hidden layers of 512
    units, as in the code of Cohen et al. 2021 and Izmailov et al. 2018; `width` multiplies every layer, and `dropout`
    applies to the two hidden layers, where torchvision has it. Kaur et al. 2022 have none. The code of Granziol 2020
    drops half of what enters either hidden layer, which its text does not say.
    """
    from torchvision.models.vgg import cfgs, make_layers  # takes seconds to import

    channels, height, width = shape
    require_image_size(config.model, shape, 32)
    plan = [item if item == "M" else scale_width(item, config.width) for item in cfgs[letter]]
    features = make_layers(plan, batch_norm=batch_norm)
    first = features[0]
    if channels != first.in_channels:
        features[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    units = scale_width(512, config.width)
    inputs = plan[-2] * (height // 32) * (width // 32)
    return nn.Sequential(
        he_normal_(features),
        nn.Flatten(),
        *hidden_layer(inputs, units, nn.ReLU(), config.dropout),
        *hidden_layer(units, units, nn.ReLU(), config.dropout),
        nn.Linear(units, classes),
    )


def allcnn(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Build All-CNN-C (Springenberg et al. 2015, table 1): 1,387,108 parameters on CIFAR-100 (Granziol 2020).

    Nine convolutions with biases and without batch norm, of which two halve the image; the averages over the pixels of
    the last one's outputs, after their ReLU, are the logits. It starts as in DeepOBS (Schneider et al. 2019), from
    which Granziol's code takes it: from N(0, 2 / (fan in + fan out)) (Glorot & Bengio 2010), with biases of 0.1. Two
    differences: that code has dropout (0.2 of the pixels, 0.5 after each halving), which the paper does not mention,
    and pads images of even size on one side only where it halves them.
    """
    channels, *_ = shape
    require_image_size(config.model, shape, 9)
    a, b = scale_width(96, config.width), scale_width(192, config.width)
    convolutions = [
        *(nn.Conv2d(channels, a, 3, padding=1), nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, a, 3, padding=1, stride=2)),
        *(nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1, stride=2)),
        *(nn.Conv2d(b, b, 3), nn.Conv2d(b, b, 1), nn.Conv2d(b, classes, 1)),
    ]
    for layer in convolutions:
        nn.init.xavier_normal_(layer.weight)
        nn.init.constant_(layer.get_parameter("bias"), 0.1)
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
