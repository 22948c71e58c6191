"""Executors of a sweep: this process, worker processes on this machine, or the workers of a Dask cluster.

Each yields every configuration with its outcome as it finishes, until a deadline, at which the others are cancelled.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from flatlib.config import Execution, RunConfig
from flatlib.device import keep_freed_memory
from flatlib.errors import FlatlibError
from flatlib.runs.cluster import Cluster, connect
from flatlib.runs.provenance import provenance
from flatlib.runs.records import Line, finite
from flatlib.training.train import train

RunOne = Callable[[RunConfig, str, Path | None], Any]  # of a configuration, a device and the data folder
Outcomes = Generator[tuple[RunConfig, Any], None, None]  # configurations with their lines, or their exceptions
FOREVER = float("inf")  # the deadline of a sweep without a time limit
BROKEN = (
    "a worker process ended before its run was done; in a script, call the sweep under "
    '`if __name__ == "__main__":`; what has finished is recorded, run again to go on'
)


def run_one(config: RunConfig, device: str, data: Path | None) -> Line:
    """Train and measure one configuration, and return its line of the record."""
    started = time.perf_counter()
    trained = train(config, device=device, data=data)
    about = provenance(trained.data.x_train.device) | {"data": trained.data.fingerprint}
    return finite(
        {
            "run_id": config.run_id,
            "config": config.to_json(),
            "status": trained.status,
            "measures": trained.measures,
            "trajectory": trained.trajectory,
            "provenance": about | {"seconds": round(time.perf_counter() - started, 2)},
        }
    )


def execute(missing: list[RunConfig], execution: Execution, run_one: RunOne = run_one) -> Outcomes:
    """Yield each configuration with its line, or the error that it ended in, as they finish.

    Closed before its end, the generator cancels what is in progress.

    Args:
        missing: The configurations, first things first.
        execution: Where and how many at a time, and the time limit.
        run_one: Returns the line of a configuration; must be importable by the workers.
    """
    deadline = time.monotonic() + execution.time_limit if execution.time_limit else FOREVER
    if execution.scheduler is not None:
        return on_cluster(missing, execution, execution.scheduler, run_one, deadline)
    if execution.workers > 1 or execution.time_limit:
        return in_processes(missing, execution, run_one, deadline)
    return in_this_process(missing, execution, run_one)


def seconds_until(deadline: float) -> float | None:
    """Return the seconds that are left, as a time-out."""
    return None if deadline == FOREVER else max(0.0, deadline - time.monotonic())


def in_this_process(missing: list[RunConfig], execution: Execution, run_one: RunOne) -> Outcomes:
    """Run one after another."""
    for config in missing:
        try:
            yield config, run_one(config, execution.device, execution.data)
        except Exception as error:
            yield config, error


def in_processes(missing: list[RunConfig], execution: Execution, run_one: RunOne, deadline: float) -> Outcomes:
    """Run `execution.workers` at a time, each in a process of its own.

    Processes, not threads: torch's settings are per process. Spawned, because a forked child of a process that has
    used CUDA or started threads may hang.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(execution.workers, len(missing)), context, initializer=prepare_worker)
    try:
        futures: dict[Future, RunConfig] = {
            pool.submit(run_one, config, execution.device, execution.data): config for config in missing
        }
        for future in as_completed(futures, timeout=seconds_until(deadline)):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise error
            yield futures[future], error or future.result()
    except BrokenProcessPool:
        raise FlatlibError(BROKEN) from None
    except (TimeoutError, GeneratorExit):  # time is up, or the sweep broke off
        terminate_workers(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prepare_worker() -> None:
    """Set a worker process up before its first run: it keeps freed memory, and ends when its parent is gone.

    A worker whose parent was killed would wait for work for ever.
    """
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers call this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def terminate_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool's workers: what they have finished is recorded, what is in progress is lost."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()


def on_cluster(
    missing: list[RunConfig], execution: Execution, scheduler: str, run_one: RunOne, deadline: float
) -> Outcomes:
    """Run on the workers of a Dask scheduler, each run again elsewhere if its worker dies.

    Workers send their lines back and write nothing. They need flatlib and the data folder.
    """
    client = connect(scheduler)
    try:
        cluster = Cluster(
            client, scheduler, missing, lambda config: (run_one, config, execution.device, execution.data)
        )
        yield from cluster.outcomes(deadline)
    except (CancelledError, OSError):
        raise FlatlibError(
            f"scheduler: the connection to {scheduler} was lost; what has finished is recorded, run again to go on"
        ) from None
    finally:
        client.close()
