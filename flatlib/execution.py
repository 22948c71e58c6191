"""What does not determine a result: where and how wide the runs are spread, and for how long."""

import re
from dataclasses import dataclass
from pathlib import Path

from flatlib.errors import FlatlibError

__all__ = ["Execution"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What does not change a result: where and how wide the runs are spread.

    Attributes:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        workers: runs trained at the same time, each in a process of its own with one thread.
        scheduler: address of a Dask scheduler (``tcp://host:8786``), whose workers train; None runs on this machine.
        time_limit: seconds after which a sweep ends, with everything that has finished kept; None for none.
        data: folder with ``NAME.npz`` files and downloads; None takes FLATLIB_DATA or the user's cache.
        progress: show a progress bar.
    """

    device: str = "auto"
    workers: int = 1
    scheduler: str | None = None
    time_limit: float | None = None
    data: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if type(self.workers) is not int or self.workers < 1:
            raise FlatlibError(f"workers: expected a whole number of at least 1, got {self.workers!r}")
        if self.scheduler is not None and not re.fullmatch(r"(tcp|tls|ws|inproc)://\S+", str(self.scheduler)):
            raise FlatlibError(f"scheduler: expected an address such as tcp://host:8786, got {self.scheduler!r}")
        if self.time_limit is not None and not 0 < self.time_limit < float("inf"):
            raise FlatlibError(f"time_limit: must be a positive number of seconds, got {self.time_limit!r}")
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise FlatlibError(f"device: unknown name {self.device!r}; allowed: auto, cpu, cuda, cuda:N")
