"""Batches and the training step: augmentation of a batch, its gradient, the optimizer's update."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.device import Bfloat16, step_precision
from flatlib.losses import training_loss
from flatlib.training.augmentation import augmented
from flatlib.training.data import Data
from flatlib.training.jacobian_penalty import JacobianPenalty
from flatlib.training.optim import batch_gradient, sam_gradient

# Added to the seed: each kind of randomness has a stream of its own, and the initialization uses the seed itself.
SHUFFLE, AUGMENT, PROJECT = 0x5EED, 0xA06, 0x3AC


def batches(data: Data, config: RunConfig) -> Iterator[Tensor | slice]:
    """Yield the indices of one batch after another, without end, in a new random order every epoch.

    The last batch of an epoch holds the images that remain. A full batch needs no order.
    """
    total = len(data.x_train)
    if config.batch_size in (0, total):
        while True:
            yield slice(None)
    generator = torch.Generator().manual_seed(config.seed + SHUFFLE)
    while True:
        order = torch.randperm(total, generator=generator).to(data.x_train.device)
        yield from order.split(config.batch_size)


class TrainingStep:
    """Training step of a network, plain or SAM's, in the configured precision.

    Args:
        model: Network whose parameters the optimizer updates.
        optimizer: Optimizer of these parameters.
        config: Settings of the loss and its penalty, SAM, the precision and the augmentation.
        data: Images that the batches index.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig, data: Data):
        self._network = Bfloat16(model) if config.precision == "bfloat16" else model
        self._optimizer, self._config, self._data = optimizer, config, data
        self._loss = training_loss(config.loss, config.label_smoothing)
        self._generator = torch.Generator().manual_seed(config.seed + AUGMENT)
        self._penalty = None
        if config.jacobian_penalty:
            self._penalty = JacobianPenalty(
                config.jacobian_penalty, torch.Generator().manual_seed(config.seed + PROJECT)
            )

    def __call__(self, batch: Tensor | slice) -> None:
        """Take one step on the training images with these indices."""
        config, data = self._config, self._data
        images, labels = data.x_train[batch], data.y_train[batch]
        examples = augmented(images, labels, data.classes, config, self._generator)
        with step_precision(config.precision):
            if config.sam_rho:
                sizes = {"sam_batch": config.sam_batch, "microbatch": config.microbatch}
                sam_gradient(self._network, self._loss, examples, config.sam_rho, **sizes)
            else:
                batch_gradient(self._network, self._loss, examples, config.microbatch, self._penalty)
        self._optimizer.step()
