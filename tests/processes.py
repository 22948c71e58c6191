"""Processes that a test starts: found by their environment, and ended with their children."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

fork = multiprocessing.get_context("fork")  # a child need not import torch again


@contextlib.contextmanager
def running(target: Callable, *arguments: object) -> Iterator[multiprocessing.Process]:
    """Run a function in a process group of its own, which is killed at the end."""
    process = fork.Process(target=in_own_group, args=(target, *arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def in_own_group(target: Callable, *arguments: object) -> None:
    """Call a function as the leader of a new process group."""
    os.setpgid(0, 0)
    target(*arguments)


def processes_with(setting: str, patience: float) -> list[str]:
    """Return the ids of processes with ``NAME=value`` in their environment that are left after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (found := having(setting)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def having(setting: str) -> list[str]:
    """Return the ids of processes with ``NAME=value`` in their environment now."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if setting.encode() in environment.read_bytes().split(b"\0"):
                found.append(environment.parent.name)
        except OSError:
            continue
    return found
