"""Runs on the workers of a Dask scheduler: one at a time on each suitable worker, while workers come, go and die."""

import logging
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from tqdm import tqdm

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs.worker import PACKAGES, Call, Unsuitable, run_checked, version

CONNECT = 10.0  # seconds to wait for a scheduler to reply, and for the line of a finished run
WAIT = 30.0  # seconds to wait for a worker while there is none
SETTLE = 5.0  # the same while those that came are all unsuitable
TICK = 1.0  # seconds between two looks at which workers there are
DEATHS = 3  # workers that die in one run before it counts as failed


class Attempt(NamedTuple):
    """Run in progress."""

    config: RunConfig
    worker: str
    future: Any


class Cluster:
    """Runs that wait or are in progress, and what is known of the workers.

    Which worker gets a run is decided here: Dask would give most runs to an unsuitable worker, as the first to be done
    with each, and has no way to exclude workers that come later.

    Args:
        client: Client of the scheduler.
        scheduler: Its address.
        missing: The configurations, first things first.
        call: Returns a function and its arguments for a configuration.
    """

    def __init__(self, client: Any, scheduler: str, missing: list[RunConfig], call: Callable[[RunConfig], tuple]):
        self.client, self.scheduler, self.call, self.waiting = client, scheduler, call, deque(missing)
        self.expected = {package: version(package) for package in PACKAGES}
        self.attempts: dict[str, Attempt] = {}  # by key
        self.done: SimpleQueue[Any] = SimpleQueue()  # futures
        self.deaths: Counter[str] = Counter()  # of workers, by run_id
        self.unsuitable: dict[str, str] = {}  # reasons by worker, of those that are still there
        self.unreported: list[str] = []  # lines about unsuitable workers
        self.proven = self.waits = False  # whether any worker was suitable, and whether there is none now
        self.last_suitable = self.last_unsuitable = time.monotonic()  # when a worker proved to be so

    def outcomes(self, deadline: float) -> Iterator[tuple[RunConfig, Any]]:
        """Yield each configuration with its outcome, until the deadline."""
        while (self.waiting or self.attempts) and (left := deadline - time.monotonic()) > 0:
            workers = self.workers()
            for attempt in [one for one in self.attempts.values() if one.worker not in workers]:
                yield from self.try_again(attempt)
            self.assign(workers)
            self.check_idle()
            ended = self.next_done(min(TICK, left))
            if ended is not None:
                yield from self.evaluate(ended)

    def workers(self) -> dict[str, Any]:
        """Return what the scheduler knows of its workers by their addresses; raise `CancelledError` if it is gone."""
        if self.client.status != "running":
            raise CancelledError
        workers = self.client.sync(self.client.scheduler.identity)["workers"]  # `scheduler_info` may have lost them
        self.unsuitable = {worker: reason for worker, reason in self.unsuitable.items() if worker in workers}
        return workers

    def assign(self, workers: dict[str, Any]) -> None:
        """Start the next run on each worker that has none and is not known as unsuitable."""
        taken = {attempt.worker for attempt in self.attempts.values()} | self.unsuitable.keys()
        for worker, about in workers.items():
            if self.waiting and worker not in taken and about["status"] == "running":
                self.start(self.waiting.popleft(), worker)

    def start(self, config: RunConfig, worker: str) -> None:
        """Start a run on this worker and no other."""
        task = pickle.dumps(Call(run_checked, self.expected, pickle.dumps(self.call(config))))
        key = f"{config.run_id}-{time.time_ns()}"
        future = self.client.submit(pickle.loads, task, key=key, workers=[worker], pure=False)
        self.attempts[key] = Attempt(config, worker, future)
        future.add_done_callback(self.done.put)

    def next_done(self, timeout: float) -> Attempt | None:
        """Return the next run in progress that ends, if one does in time."""
        try:
            return self.attempts.get(self.done.get(timeout=timeout).key)
        except Empty:
            if self.attempts:
                self.report()
            return None

    def evaluate(self, attempt: Attempt) -> Iterator[tuple[RunConfig, Any]]:
        """Yield the outcome of a run that has ended, unless another worker must try it."""
        try:
            outcome = attempt.future.exception(timeout=CONNECT) or attempt.future.result(timeout=CONNECT)
        except TimeoutError:  # the worker died and its line with it
            yield from self.try_again(attempt)
            return
        self.forget(attempt)
        if reason := fault(outcome):
            self.last_unsuitable, self.unsuitable[attempt.worker] = time.monotonic(), reason
            self.unreported.append(f"goes on without the worker {attempt.worker}, which {reason}")
            self.waiting.appendleft(attempt.config)
            return
        self.last_suitable, self.proven, self.waits = time.monotonic(), True, False
        self.report()
        yield attempt.config, outcome

    def try_again(self, attempt: Attempt) -> Iterator[tuple[RunConfig, Any]]:
        """Let another worker try the run of one that died, or yield an error if that happened too often."""
        self.forget(attempt)
        self.last_suitable, self.waits = time.monotonic(), False
        self.deaths[attempt.config.run_id] += 1
        if self.deaths[attempt.config.run_id] < DEATHS:
            self.waiting.appendleft(attempt.config)
        else:
            yield attempt.config, FlatlibError(f"{DEATHS} workers died in this run, the last at {attempt.worker}")

    def forget(self, attempt: Attempt) -> None:
        """Release a task."""
        del self.attempts[attempt.future.key]
        attempt.future.release()

    def report(self) -> None:
        """Write the lines about unsuitable workers; not at once, because if no other is left, an error says it all."""
        for line in self.unreported:
            say(line)
        self.unreported.clear()

    def check_idle(self) -> None:
        """Raise a `FlatlibError` if no run is in progress and there has been no suitable worker for too long."""
        if self.attempts:
            return
        now = time.monotonic()
        if self.unsuitable and not self.proven:
            if now - self.last_unsuitable > SETTLE:
                (worker, reason), *others = self.unsuitable.items()
                more = f" ({len(others)} more are unsuitable)" if others else ""
                raise FlatlibError(f"scheduler: the worker {worker} {reason}{more}")
        elif not self.waits:
            self.waits = True
            say(f"no suitable worker at {self.scheduler}; waiting up to {WAIT:g} s for one")
        if now - self.last_suitable > WAIT:
            raise FlatlibError(
                f"scheduler: no suitable worker for {WAIT:g} s; what has finished is recorded, start one "
                f"(dask worker {self.scheduler} --nthreads 1) and run again to go on"
            )


def say(line: str) -> None:
    """Write a line above the progress bar."""
    tqdm.write(f"flatlib: {line}", file=sys.stderr)


def fault(outcome: Any) -> str:
    """Return what makes the worker unsuitable that ended a run so; empty if nothing does."""
    if isinstance(outcome, Unsuitable):
        return str(outcome)
    if isinstance(outcome, ImportError) and (outcome.name or "").partition(".")[0] == "flatlib":
        return f"has no flatlib ({outcome}); install it there"
    return ""


def connect(scheduler: str) -> Any:
    """Return a client of the Dask scheduler at this address."""
    try:
        import distributed
    except ImportError:
        raise FlatlibError("scheduler: needs the package distributed (pip install distributed)") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is one line, not tracebacks
    try:
        return distributed.Client(scheduler, timeout=CONNECT, set_as_default=False)
    except OSError as error:
        raise FlatlibError(f"scheduler: no reply from {scheduler} ({type(error).__name__})") from None
