"""A lock for records: two sweeps that append to the same one would train, and record, the same runs twice."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from flatlib.errors import FlatlibError
from flatlib.runs.records import writing


@contextlib.contextmanager
def locked(record: Path) -> Iterator[None]:
    """Keep other writers out of a record; reading needs no lock.

    The lock is a file beside the record, which is removed at the end. The operating system releases the lock of a
    process that ends, killed or not. On a file system without locks nobody is kept out.

    Raises:
        FlatlibError: If another process is writing to the record, or its folder cannot be written.
    """
    lock = FileLock(record.with_name(record.name + ".lock"))
    with writing(record):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            message = "another process is writing to this record; wait for it, or write to another one"
            raise FlatlibError(f"{record}: {message}") from None
        except NotImplementedError:
            pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            os.unlink(lock.lock_file)
        lock.release()
