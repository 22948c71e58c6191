"""Where the runs of a sweep happen: in this process, in several on this machine, or on a Dask cluster.

Each yields every configuration with its outcome as it finishes, until a deadline. What is under way then is given up.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from flatlib.config import Execution, RunConfig
from flatlib.device import keep_freed_memory
from flatlib.errors import FlatlibError

RunOne = Callable[[RunConfig, str, Path | None], Any]
Outcome = tuple[RunConfig, Any | Exception]
FOREVER = float("inf")
CONNECT = 10.0
"""Seconds to wait for a scheduler to answer."""


def outcomes(missing: list[RunConfig], execution: Execution, run_one: RunOne) -> Generator[Outcome, None, None]:
    """Each configuration with what `run_one` returns, or with the error it raised, as they finish; closed before its
    end, it gives up what is under way.

    run_one: (configuration, device, data folder) -> anything; it must be importable where it runs.
    """
    deadline = time.monotonic() + execution.time_limit if execution.time_limit else FOREVER
    if execution.scheduler is not None:
        return on_cluster(missing, execution, run_one, deadline)
    if execution.workers > 1 or execution.time_limit:
        return in_processes(missing, execution, run_one, deadline)
    return in_this_process(missing, execution, run_one)


def in_this_process(missing: list[RunConfig], execution: Execution, run_one: RunOne) -> Generator[Outcome, None, None]:
    """One after another."""
    for config in missing:
        try:
            yield config, run_one(config, execution.device, execution.data)
        except Exception as error:
            yield config, error


def in_processes(
    missing: list[RunConfig], execution: Execution, run_one: RunOne, deadline: float = FOREVER
) -> Generator[Outcome, None, None]:
    """`execution.workers` at a time, each in a process of its own.

    Processes, not threads: torch's settings are per process. Spawned, because a forked child of a process that has
    used CUDA or started threads may hang.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(execution.workers, len(missing)), context, initializer=exit_with_parent)
    try:
        futures: dict[Future, RunConfig] = {
            pool.submit(run_one, config, execution.device, execution.data): config for config in missing
        }
        left = None if deadline == FOREVER else max(0.0, deadline - time.monotonic())
        for future in as_completed(futures, timeout=left):
            yield futures[future], future.exception() or future.result()
    except (TimeoutError, GeneratorExit):  # time is up, or nobody wants the rest
        terminate_workers(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def exit_with_parent() -> None:
    """A worker whose driver is gone, killed perhaps, would wait for work for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    keep_freed_memory()
    threading.Thread(target=watch, daemon=True).start()


def terminate_workers(pool: ProcessPoolExecutor) -> None:
    """End what a pool's workers are doing: what they have finished is recorded, what is under way is lost."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def on_cluster(
    missing: list[RunConfig], execution: Execution, run_one: RunOne, deadline: float = FOREVER
) -> Generator[Outcome, None, None]:
    """On the workers of a Dask scheduler, each run again elsewhere if its worker dies.

    The driver alone writes: workers send their lines back. They need flatlib and the data folder.
    """
    try:
        import distributed
    except ImportError:
        raise FlatlibError("scheduler: needs the package distributed (pip install distributed)") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is one line, not tracebacks
    try:
        client = distributed.Client(execution.scheduler, timeout=CONNECT, set_as_default=False)
    except OSError as error:
        raise FlatlibError(f"scheduler: nothing answers at {execution.scheduler} ({type(error).__name__})") from None
    try:
        _require_single_threads(client)
        futures = client.map(
            run_one,
            missing,
            [execution.device] * len(missing),
            [execution.data] * len(missing),
            key=[f"{config.run_id}-{time.time_ns()}" for config in missing],
            pure=False,
        )
        configs = dict(zip((future.key for future in futures), missing, strict=True))
        left = None if deadline == FOREVER else max(0.0, deadline - time.monotonic())
        for future in distributed.as_completed(futures, loop=client.loop, timeout=left):
            error = future.exception()
            yield configs[future.key], error if error is not None else future.result()
            future.release()
    except GeneratorExit:  # nobody wants the rest
        client.cancel(futures, force=True)
    except (CancelledError, OSError) as error:
        if not isinstance(error, TimeoutError) or left is None:
            raise FlatlibError(
                f"scheduler: the connection to {execution.scheduler} was lost; what has finished is recorded, run "
                "again to go on"
            ) from None
        client.cancel(futures, force=True)
    finally:
        client.close()


def _require_single_threads(client: Any) -> None:
    """Two runs in one process would share torch's settings and random state."""
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        if worker["nthreads"] > 1:
            raise FlatlibError(f"scheduler: the worker {address} has {worker['nthreads']} threads; start it with 1")
