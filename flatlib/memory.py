"""How much memory there is to take."""

import resource
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits stand (Linux, control groups of version 2)."""


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
