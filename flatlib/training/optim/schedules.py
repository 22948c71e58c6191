"""Learning rate schedules, as factors of the initial rate, and the average of the iterates."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flatlib.config import RunConfig
from flatlib.curvature.operators.batch_norm import recalibrate


def granziol(progress: float) -> float:
    """Return 1 for half of the epochs, then linear values down to 0.01 at nine tenths (Granziol 2020, section 4).

    Args:
        progress: Fraction of the epochs that is over, in [0, 1).

    >>> [round(granziol(p), 3) for p in (0, 0.5, 0.7, 0.9, 0.95)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """
    return max(0.01, min(1.0, 1.0 - 0.99 * (progress - 0.5) / 0.4))


def granziol_averaging(progress: float, ratio: float) -> float:
    """Return 1 for half of the time until averaging starts, then linear values to the averaging rate's at nine tenths.

    This is equation 15 of Granziol 2020, and the schedule in the public code of Izmailov et al. 2018.

    >>> [round(granziol_averaging(p, 0.5), 3) for p in (0, 0.5, 0.7, 0.9, 0.95)]
    [1.0, 1.0, 0.75, 0.5, 0.5]

    Args:
        progress: Epochs that are over, as a fraction of those before averaging.
        ratio: Learning rate while averaging over the initial one.
    """
    return 1.0 - (1.0 - ratio) * min(1.0, max(0.0, (progress - 0.5) / 0.4))


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": lambda progress: 1.0,
    "granziol": granziol,
    "granziol_averaging": granziol_averaging,
}


def learning_rate_at(config: RunConfig, epoch: int) -> float:
    """Return the learning rate in an epoch, counted from 0."""
    constant = config.averaging_learning_rate
    if constant is not None and is_averaged(config, epoch + 1):
        return constant
    if config.schedule == "granziol_averaging" and constant is not None and config.averaging_start:
        progress = epoch / (config.averaging_start * config.max_epochs)
        return config.learning_rate * granziol_averaging(progress, constant / config.learning_rate)
    return config.learning_rate * SCHEDULES[config.schedule](epoch / config.max_epochs)


def is_averaged(config: RunConfig, epochs: int) -> bool:
    """Return whether the iterate after so many epochs is part of the average."""
    return config.averaging_start is not None and epochs > config.averaging_start * config.max_epochs


def averaged_network(average: AveragedModel, inputs: Callable[[], Iterable[Tensor]]) -> nn.Module:
    """Return the average in evaluation mode, with batch norm's statistics estimated again on the inputs.

    The average is that of Izmailov et al. 2018, equation 1; Granziol's "Gadam" averages Adam's iterates. The statistics
    of any one iterate do not fit averaged weights. `recalibrate` gives those of all inputs as one batch, however they
    are chunked, where PyTorch's `update_bn` averages over batches.
    """
    network = average.module.eval()
    recalibrate(network, inputs)
    return network
