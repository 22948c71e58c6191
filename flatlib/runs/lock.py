"""One writer at a time: two sweeps that append to the same record would train, and record, the same runs twice."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flatlib.errors import FlatlibError
from flatlib.runs.records import check_writable

try:
    import fcntl
except ImportError:  # Windows has no flock, and there nobody is kept out
    fcntl = None


@contextlib.contextmanager
def locked(record: Path) -> Iterator[None]:
    """Keep other writers out of a record; whoever only reads it asks for nothing.

    The lock is on the record itself and belongs to this process: the operating system lets go of it when the process
    ends, killed or not, and nothing is left beside the record. It is made if it is absent.

    Raises:
        FlatlibError: if another process is writing to the record, or it cannot be written.
    """
    check_writable(record)
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(record.open("ab"))
            lock(file, record)
            if is_at(file, record):
                break
        yield


def locked_if_there(record: Path) -> contextlib.AbstractContextManager[None]:
    """`locked`, for who may replace a record: one that is absent stays absent."""
    return locked(record) if record.is_file() else contextlib.nullcontext()


def lock(file: BinaryIO, record: Path) -> None:
    """Lock an open record, or say who has it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FlatlibError(
            f"{record}: another process is writing to this record; wait for it, or write to another one"
        ) from None
    except OSError:  # a file system without locks
        return


def is_at(file: BinaryIO, record: Path) -> bool:
    """Whether this open file is still the record: `records.write` puts another one in its place."""
    try:
        return fcntl is None or os.path.samestat(os.fstat(file.fileno()), record.stat())
    except FileNotFoundError:
        return False
