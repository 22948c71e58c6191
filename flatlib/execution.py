"""Where and how many at a time runs are trained, which does not change a result."""

import re
from dataclasses import dataclass
from pathlib import Path

from flatlib._validation import check_device_name
from flatlib.errors import FlatlibError


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where, and how many at a time, runs are trained: settings that do not change a result.

    Attributes:
        device: "auto" (CUDA if available), "cpu", "cuda" or "cuda:N".
        workers: Number of runs trained at the same time, each in a process of its own with one thread.
        scheduler: Address of a Dask scheduler (``tcp://host:8786``) whose workers train; None for this machine.
        time_limit: Seconds after which a sweep ends and keeps everything that has finished; None for no limit.
        data: Folder of ``NAME.npz`` files and downloads; None for ``FLATLIB_DATA`` or the user's cache.
        progress: Show a progress bar.
    """

    device: str = "auto"
    workers: int = 1
    scheduler: str | None = None
    time_limit: float | None = None
    data: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if type(self.workers) is not int or self.workers < 1:
            raise FlatlibError(f"workers: expected a whole number of at least 1, got {self.workers!r}")
        if self.scheduler is not None and not re.fullmatch(r"(tcp|tls|ws|inproc)://\S+", str(self.scheduler)):
            raise FlatlibError(f"scheduler: expected an address such as tcp://host:8786, got {self.scheduler!r}")
        if self.time_limit is not None and not 0 < self.time_limit < float("inf"):
            raise FlatlibError(f"time_limit: must be a positive number of seconds, got {self.time_limit!r}")
