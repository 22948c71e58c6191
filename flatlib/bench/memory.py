"""The memory of one measurement, in a process of its own: what earlier ones left behind does not count."""

import multiprocessing
from multiprocessing.connection import Connection

import psutil
import torch

from flatlib.bench.libraries import LIBRARIES
from flatlib.bench.problems import Problem
from flatlib.device import current
from flatlib.memory import peak_memory


def peak_memory_of(name: str, problem: Problem, effort: float) -> int:
    """Bytes by which the peak of a fresh process rises above what it holds when the problem is loaded."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(there, name, problem, effort, torch.get_num_threads()))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _measure(answer: Connection, name: str, problem: Problem, effort: float, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.autograd.functional.hvp(lambda v: v.square().sum(), torch.ones(2), torch.ones(2))  # what PyTorch itself loads
    on_gpu = problem.device.type == "cuda"
    with current(problem.device):
        before = torch.cuda.memory_allocated() if on_gpu else psutil.Process().memory_info().rss
        LIBRARIES[name].solve(problem, effort, 0)
        answer.send((torch.cuda.max_memory_allocated() if on_gpu else peak_memory()) - before)
