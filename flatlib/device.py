"""Where and how exactly numbers are computed: devices, reproducible settings, float32 precision and memory."""

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from flatlib._validation import check_device_name
from flatlib.errors import FlatlibError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is deterministic only with a workspace of fixed size, read at its first use
CUDNN: Any = torch.backends.cudnn  # PyTorch's stubs know neither these attributes nor the one below
MKLDNN: Any = torch.backends.mkldnn
DETERMINISTIC: Any = torch.utils.deterministic
PRECISION_SWITCHES_GPU = (torch.backends.cuda.matmul, CUDNN.conv, CUDNN.rnn)
PRECISION_SWITCHES = (*PRECISION_SWITCHES_GPU, MKLDNN.matmul, MKLDNN.conv, MKLDNN.rnn)
CGROUP = Path("/sys/fs/cgroup")  # a container's limits (Linux, control groups of version 2)
ALLOCATOR = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")  # the user's own allocator settings
KEPT_BYTES = 2**30  # most free bytes at the end of the heap that a worker keeps
HEAP_BLOCK_BYTES = 2**28  # largest block taken from the heap; larger ones go back when freed and leave no holes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def resolve(name: str) -> torch.device:
    """Return the torch device of a name: "auto" is CUDA if available, "cuda" is PyTorch's current GPU.

    Raises:
        FlatlibError: If the name is unknown or the device is not there.
    """
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FlatlibError(f"device: {name!r} was requested, but torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def current(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Make `device` the current CUDA device in the context (streams, events and memory statistics refer to it)."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Use one CPU thread, deterministic kernels and full float32 precision in the context.

    A sum split over threads depends on their number. With one thread the same configuration gives the same bits on the
    same kind of CPU whatever the number of workers, and workers do not compete for cores.
    """
    threads, strictness = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    workspace = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler: 1.4 s
    try:
        with (
            full_precision(),
            switched("benchmark", False, CUDNN),
            switched("fill_uninitialized_memory", False, DETERMINISTIC),  # it takes 7 % of VGG-11's step
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strictness)
        if workspace is None:
            del os.environ[CUBLAS]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random generators of the CPU and of `device` in the context, and restore them afterwards."""
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
    """Return the generators that dropout and initialization draw from: the CPU's and, on a GPU, the device's."""
    generators = [torch.random.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        generators.append(torch.cuda.default_generators[device.index or 0])
    return generators


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Multiply float32 numbers in float32 in the context; PyTorch's default for convolutions on a GPU is TF32."""
    return switched("fp32_precision", "ieee", *PRECISION_SWITCHES)


def step_precision(precision: str) -> contextlib.AbstractContextManager[None]:
    """Multiply float32 numbers as `RunConfig.precision` says in the context; a CPU has no TF32."""
    return switched("fp32_precision", "tf32", *(PRECISION_SWITCHES_GPU if precision == "tf32" else ()))


@contextlib.contextmanager
def switched(name: str, value: Any, *settings: Any) -> Iterator[None]:
    """Set the attribute of this name of all `settings` in the context."""
    before = [getattr(setting, name) for setting in settings]
    try:
        for setting in settings:
            setattr(setting, name, value)
        yield
    finally:
        for setting, old in zip(settings, before, strict=True):
            setattr(setting, name, old)


class Bfloat16(nn.Module):
    """Network whose forward pass is autocast to bfloat16 and returns float32; weights and gradients stay float32.

    Weights are cast at every use: PyTorch would keep the cast ones as long as any surrounding autocast lasts, even a
    disabled one as `reproducible` opens it, and every step would train the weights of the first.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.model(x).float()


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory for the rest of the process, and return whether it does.

    By default glibc returns the memory of every activation to the system, and the next step requests the same pages
    again: some 4600 page faults in a training step of VGG-11 at width 1/4, a quarter of its time. Only worker processes
    call this: the setting is global to the process. Other C libraries, and an allocator that the environment
    configures, are left alone.
    """
    if any(name in os.environ for name in ALLOCATOR):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: musl, macOS, Windows
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES))


def free_memory(device: torch.device) -> int:
    """Return the bytes that can be allocated on the device: PyTorch's unused ones included on a GPU, and within the
    limit of the container on a CPU."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(psutil.virtual_memory().available, container_memory())


def container_memory(folder: Path = CGROUP) -> int:
    """Return the bytes left below the limit of the container, or 2**63 if there is no limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Cached pages of files count as used, and are released when memory is needed.
        return 2**63 if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return 2**63


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    with contextlib.suppress(OSError, KeyError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].removesuffix("kB"))
    # Elsewhere; on Linux this may be the parent's, whose memory the child started from.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
