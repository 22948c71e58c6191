"""torchvision's VGG configurations for small images, as in the code of Cohen et al. 2021 and of Izmailov et al. 2018.

The classifier has two hidden layers of 512 units; `width` multiplies every layer, and `dropout` applies to the two
hidden layers, where torchvision has it. Kaur et al. 2022 have none. The code of Granziol 2020 drops half of what
enters either hidden layer, which its text does not say.
"""

from torch import nn

from flatlib.config import RunConfig
from flatlib.training.models.initialization import he_normal_
from flatlib.training.models.mlp import hidden_layer
from flatlib.training.models.shapes import Shape, require_image_size, scale_width


def vgg(config: RunConfig, shape: Shape, classes: int, *, letter: str, batch_norm: bool = False) -> nn.Module:
    """Build torchvision's configuration of that letter, for images of at least 32 x 32 pixels.

    Configuration A is VGG-11 (Kaur et al. 2022): eight convolutions and three linear layers. Configuration D is VGG-16,
    with thirteen convolutions (Granziol 2020, section 5, with batch norm).
    """
    from torchvision.models.vgg import cfgs, make_layers  # takes seconds to import

    channels, height, width = shape
    require_image_size(config.model, shape, 32)
    plan = [item if item == "M" else scale_width(item, config.width) for item in cfgs[letter]]
    features = make_layers(plan, batch_norm=batch_norm)
    first = features[0]
    if channels != first.in_channels:
        features[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    he_normal_(features)
    units = scale_width(512, config.width)
    inputs = plan[-2] * (height // 32) * (width // 32)
    return nn.Sequential(
        features,
        nn.Flatten(),
        *hidden_layer(inputs, units, nn.ReLU(), config.dropout),
        *hidden_layer(units, units, nn.ReLU(), config.dropout),
        nn.Linear(units, classes),
    )
