"""Processes that a test starts, a cluster among them: found by their environment, and ended with their children."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

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


class Scheduler(NamedTuple):
    """A scheduler as a process of its own, its address, and a function that starts workers."""

    address: str
    start: Callable[..., subprocess.Popen]
    process: subprocess.Popen


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[Scheduler]:
    """A scheduler, whose workers have one thread unless told otherwise, are processes, and end with it."""
    file = folder / "scheduler.json"
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"NOTES": str(folder / "notes"), "PYTHONPATH": paths}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    quiet["start_new_session"] = True
    processes: list[subprocess.Popen] = []

    def start(program: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{program}", "--no-dashboard", *options]
        processes.append(subprocess.Popen(command, **quiet))
        return processes[-1]

    def worker(*options: str) -> subprocess.Popen:
        return start("dask_worker", address, "--no-nanny", "--nthreads", "1", *options)

    try:
        start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file))
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        yield Scheduler(address, worker, processes[0])
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and two workers: the scheduler's address and the workers."""
    with scheduler(folder) as started:
        yield started.address, [started.start() for _ in range(2)]
