"""One training step: a batch of images as the configuration trains on it, its gradient, the optimizer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.losses import training_loss
from flatlib.precision import Bfloat16, step_precision
from flatlib.training.augmentation import augmented
from flatlib.training.data import Data
from flatlib.training.optim import batch_gradient, sam_gradient
from flatlib.training.optim.gradient import Batch

AUGMENT = 0xA06
"""Flips, shifts and mixtures draw from a stream of their own."""

Gradient = Callable[[Batch], None]
"""Leaves the gradient at a batch in `.grad`."""


def gradient_of(model: nn.Module, config: RunConfig) -> Gradient:
    """The configured gradient, plain or SAM's, in the configured precision."""
    loss, parts = training_loss(config.loss, config.label_smoothing), config.microbatch
    network = Bfloat16(model) if config.precision == "bfloat16" else model

    def gradient(batch: Batch) -> None:
        with step_precision(config.precision):
            if config.sam_rho:
                sam_gradient(network, loss, batch, config.sam_rho, sam_batch=config.sam_batch, microbatch=parts)
            else:
                batch_gradient(network, loss, batch, parts)

    return gradient


class TrainingStep:
    """Takes one step after another.

    gradient: of the network whose weights the optimizer moves.
    """

    def __init__(self, gradient: Gradient, optimizer: torch.optim.Optimizer, config: RunConfig, data: Data):
        self._gradient, self._optimizer, self._config, self._data = gradient, optimizer, config, data
        self._generator = torch.Generator().manual_seed(config.seed + AUGMENT)

    def __call__(self, batch: Tensor | slice) -> None:
        """batch: which training images."""
        data = self._data
        images, labels = data.x_train[batch], data.y_train[batch]
        self._gradient(augmented(images, labels, data.classes, self._config, self._generator))
        self._optimizer.step()
