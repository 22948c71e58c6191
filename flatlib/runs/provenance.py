"""Provenance of a run: versions, device and commit, recorded with its result."""

import contextlib
import functools
import platform
import subprocess
from pathlib import Path

import numpy
import torch

import flatlib


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout flatlib was imported from, with ``+`` if it has changes; None outside one."""
    git = ["git", "-C", str(Path(flatlib.__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@functools.cache
def processor() -> str:
    """Return the name of the CPU and its instruction set, on which the last digits of a sum depend."""
    name = platform.processor()
    with contextlib.suppress(OSError):  # only Linux has the file, and its `platform.processor` has no name
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})".strip()


def provenance(device: torch.device) -> dict[str, str | None]:
    """Return versions, commit and device, as plain JSON values; nothing that names a person or a machine."""
    return {
        "flatlib": flatlib.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
