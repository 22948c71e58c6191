"""Where the numbers are computed, and the settings that make them come out the same every time."""

import contextlib
import os
from collections.abc import Iterator

import torch

from flatlib.errors import FlatlibError
from flatlib.execution import Execution
from flatlib.memory import keep_freed_memory
from flatlib.precision import full_precision

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""NVIDIA's matrix products are the same every time only with a workspace of a fixed size; read when the GPU is first
used."""


def resolve(name: str) -> torch.device:
    """The torch device a user's name means: ``auto`` takes CUDA where there is one, ``cuda`` is PyTorch's current GPU;
    one that is absent is an error."""
    name = Execution(device=name).device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FlatlibError(f"device: {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def current(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a GPU, what is asked of PyTorch without naming one, its streams, clocks and memory, is of this one inside."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """One CPU thread, deterministic kernels, and float32 as float32 whatever is set outside: no TF32, no autocast.

    A sum split over threads depends on how many there are. With one thread the same configuration gives the same
    bits whatever the number of workers, and the workers do not fight over cores. Memory is kept from one step to the
    next (`keep_freed_memory`), which alone outlasts the context.
    """
    keep_freed_memory()
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # writes every new tensor twice: 7 % of VGG-11's step
    try:
        with full_precision(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill
        if workspace is None:
            del os.environ[CUBLAS]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random states of the CPU and of `device` start from the seed, and are put back at the end."""
    generators = global_generators(device)
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def global_generators(device: torch.device) -> list[torch.Generator]:
    """What dropout and initialisation draw from: the CPU's generator and, on a GPU, the device's as well."""
    generators = [torch.random.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    return generators
