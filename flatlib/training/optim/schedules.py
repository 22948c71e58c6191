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


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "granziol": granziol}


def learning_rate_at(config: RunConfig, epoch: int) -> float:
    """Return the learning rate in an epoch, counted from 0."""
    if config.averaging_learning_rate is not None and is_averaged(config, epoch + 1):
        return config.averaging_learning_rate
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
