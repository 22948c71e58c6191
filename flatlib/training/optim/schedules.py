"""Learning rate schedules: factors of the initial rate."""

from collections.abc import Callable


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
