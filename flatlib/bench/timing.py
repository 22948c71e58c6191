"""Comparable times, taken in turn so that a slow moment of the machine slows all of them, and peak memory."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import psutil
import torch
from numpy.typing import ArrayLike

from flatlib.bench.libraries import LIBRARIES
from flatlib.bench.problems import Problem
from flatlib.device import current, peak_memory


def alternating(
    calls: Mapping[str, Callable[[int], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of every call, made `repeats` times in turn with the number of the repeat."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name, call in calls.items():
            _synchronize()
            start = clock()
            call(repeat)
            _synchronize()
            seconds[name].append(clock() - start)
    return seconds


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Use this many CPU threads in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_ratio(slow: ArrayLike, fast: ArrayLike) -> float:
    """Return the median over repeats of the ratio of times taken one after the other."""
    return float(np.median(np.divide(slow, fast)))


def geometric_mean(ratios: list[float]) -> float:
    """Return the geometric mean.

    >>> round(geometric_mean([2.0, 8.0]), 9)
    4.0
    """
    return float(np.exp(np.mean(np.log(ratios))))


def _synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_of(name: str, problem: Problem, effort: float) -> int:
    """Return the bytes by which a library's measurement raises the peak memory of a process of its own."""
    alone = replace(problem, test=None, after=None)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_rise_of_the_peak, name, alone, effort, torch.get_num_threads()).result()


def _rise_of_the_peak(name: str, problem: Problem, effort: float, threads: int) -> int:
    """Return the bytes by which a library's measurement raises the peak memory of this process."""
    torch.set_num_threads(threads)
    torch.autograd.functional.hvp(lambda v: v.square().sum(), torch.ones(2), torch.ones(2))  # what PyTorch itself loads
    on_gpu = problem.device.type == "cuda"
    with current(problem.device):
        before = torch.cuda.memory_allocated() if on_gpu else psutil.Process().memory_info().rss
        LIBRARIES[name].solve(problem, effort, 0)
        return (torch.cuda.max_memory_allocated() if on_gpu else peak_memory()) - before
