"""Processes a test started, found by their environment, which their own children inherit."""

import time
from pathlib import Path


def processes_with(setting: str, patience: float) -> list[str]:
    """The ids of processes with ``NAME=value`` in their environment that are still there after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (found := having(setting)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def having(setting: str) -> list[str]:
    """The ids of processes with ``NAME=value`` in their environment now."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if setting.encode() in environment.read_bytes().split(b"\0"):
                found.append(environment.parent.name)
        except OSError:
            continue
    return found
