"""A network in training as the measures see it: with the loss, the images and the settings of its configuration."""

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from flatlib.config import RunConfig
from flatlib.losses import Loss, training_loss
from flatlib.measures import Checkpoint
from flatlib.training.data import Data


def measured_loss(config: RunConfig) -> str | Loss:
    """Return the loss that is measured: the training loss, but the cross-entropy for "batch_softmax"."""
    name = "squared" if config.loss == "squared" else "cross_entropy"
    return training_loss(name, config.label_smoothing) if config.label_smoothing else name


def checkpoint_of_run(
    model: nn.Module,
    data: Data,
    config: RunConfig,
    after: Callable[[], nn.Module] | None = None,
    optimizer: Optimizer | None = None,
) -> Checkpoint:
    """Return the checkpoint of a training run, measured with the settings of its configuration.

    Args:
        model: The network.
        data: The images it trains on and is tested on, from `flatlib.training.data.load`.
        config: Its settings: `measure_size`, `batch_norm`, `engine`, `tolerance`, `seed` and `batch_size` apply here.
        after: Returns the network after one more step, for the measure `between_iterates`; None without one.
        optimizer: Its optimizer, for the measure `preconditioned_lambda_max`; None without one.
    """
    return Checkpoint(
        model=model,
        examples=data.measured(config.measure_size),
        loss=measured_loss(config),
        train=(data.x_train, data.y_train),
        test=(data.x_test, data.y_test),
        validation=data.validation,
        after=after,
        optimizer=optimizer,
        **{name: getattr(config, name) for name in ("batch_norm", "engine", "tolerance", "seed", "batch_size")},
    )
