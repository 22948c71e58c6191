"""How much memory there is to take, and memory that is not given back to be asked for again."""

import ctypes
import functools
import os
import resource
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits stand (Linux, control groups of version 2)."""
ALLOCATOR = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""Variables with which whoever starts the process sets what `keep_freed_memory` would."""
KEPT = 2**30
"""Bytes at the end of the heap that stay the process's own when they are free."""
OF_THE_HEAP = 2**28
"""Bytes up to which a block is taken from the heap. Larger ones go back when they are freed, and leave no holes."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep up to `KEPT` bytes of freed memory for the next step; whether it does.

    By default glibc gives the megabytes of every activation back to the system when they are freed, and the next step
    asks for the same pages again: some 4600 page faults in a training step of VGG-11 at width 1/4, a quarter of its
    time. The setting is the whole process's and stays. Other C libraries are left alone, and so is one that was set by
    the environment (`ALLOCATOR`).
    """
    if any(name in os.environ for name in ALLOCATOR):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: musl, macOS, Windows
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, OF_THE_HEAP))


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now: on a GPU with what PyTorch holds without using it, on a CPU within
    the limit of the container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(psutil.virtual_memory().available, container_memory())


def peak_memory() -> int:
    """Most bytes that this process has held so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    # Elsewhere; on Linux this may be the parent's, whose memory the child started from.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def container_memory(folder: Path = CGROUP) -> int:
    """Bytes left below the limit of the container; a number too large to matter where there is none."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        kept = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used, and are given up when something else wants the room.
        return 2**63 if limit == "max" else int(limit) - used + int(kept.get("inactive_file", 0))
    except (OSError, ValueError):
        return 2**63
