"""Learning rate schedules: factors of the initial rate."""

from collections.abc import Callable

from flatlib.config import RunConfig


def constant(progress: float) -> float:
    """Return 1."""
    return 1.0


def granziol(progress: float) -> float:
    """Return 1 for half of the epochs, then linear values down to 0.01 at nine tenths (Granziol 2020, section 4).

    Args:
        progress: Fraction of the epochs that is over, in [0, 1).

    >>> [round(granziol(p), 3) for p in (0, 0.5, 0.7, 0.9, 0.95)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """
    return max(0.01, min(1.0, 1.0 - 0.99 * (progress - 0.5) / 0.4))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "granziol": granziol}


def learning_rate_at(config: RunConfig, epoch: int) -> float:
    """Return the learning rate in an epoch, counted from 0."""
    if config.averaging_learning_rate is not None and is_averaged(config, epoch + 1):
        return config.averaging_learning_rate
    return config.learning_rate * SCHEDULES[config.schedule](epoch / config.max_epochs)


def is_averaged(config: RunConfig, epochs: int) -> bool:
    """Return whether the iterate after so many epochs is part of the average."""
    return config.averaging_start is not None and epochs > config.averaging_start * config.max_epochs
