"""Times that can be compared: taken in turn, so that what slows the machine down slows all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch


def alternating(calls: Mapping[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, `repeats` times in turn; each gets the number of its repeat."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name, call in calls.items():
            _finish()
            start = time.perf_counter()
            call(repeat)
            _finish()
            seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """This many CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over repeats of the ratio of times taken one after the other."""
    return float(np.median(np.array(slow) / np.array(fast)))


def geometric_mean(ratios: list[float]) -> float:
    """
    >>> round(geometric_mean([2.0, 8.0]), 9)
    4.0
    """
    return float(np.exp(np.mean(np.log(ratios))))


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
