"""Records: append-only files with one JSON line per run, durable line by line and never executed.

    {"run_id", "config": {...}, "status", "measures": {...}, "trajectory": {name: [...]}, "provenance": {...}}

A line counts once its newline is on disk. A torn last line (a power cut, a full disk) is dropped with a warning; any
other damage is an error that names the line, because a record that silently shrinks is worse than none.
"""

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

__all__ = ["RecordWarning", "append", "failures", "list_records", "read", "table", "trajectories", "write"]

FIELDS = ("run_id", "config", "status", "measures", "trajectory", "provenance")
FAILURES = ".failures.jsonl"  # ending of the file beside a record that lists the runs which failed
STATUSES = ("reached", "capped", "diverged")
NUMBERS = frozenset((int, float, bool, type(None)))  # types that JSON's numbers, truth values and null are read as
Line = dict[str, Any]
Lines = dict[str, Line]  # by run_id, in the order of the record


class RecordWarning(UserWarning):
    """A part of a record was ignored; the message names it and its place."""


def decode(content: bytes) -> Any:
    """Return the value of one line; raise a `ValueError` if it is not JSON."""
    try:
        return json.loads(content.decode(), parse_constant=int)  # NaN and Infinity are no integers, and no JSON
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read(path: Path) -> Lines:
    """Return all lines of the record `path` by run_id; an absent file is an empty record.

    Raises:
        FlatlibError: If the file cannot be read, or a line is not JSON, has not this version's fields, or contradicts
            another one.
    """
    lines: Lines = {}
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be read ({error.strerror})") from None
    *complete, tail = text.split(b"\n")
    for number, content in enumerate(complete, start=1):
        merge_line(lines, parse(content, f"{path}, line {number}"), f"{path}, line {number}")
    if is_torn(tail):
        warnings.warn(f"{path}: the last line is torn and was dropped", RecordWarning, stacklevel=2)
    elif tail:
        merge_line(lines, parse(tail, f"{path}, last line"), f"{path}, last line")
    return lines


def is_torn(tail: bytes) -> bool:
    """Return whether the text after the last newline is a part of a line; a whole line is kept."""
    try:
        return bool(tail) and not decode(tail)
    except ValueError:
        return True


def merge_line(lines: Lines, line: Line, where: str) -> None:
    """Add one line to `lines`; the same run twice must agree, or the record cannot be trusted."""
    known = lines.setdefault(line["run_id"], line)
    unequal = known is not line and difference(known, line)
    if unequal:
        raise FlatlibError(f"{where}: run {line['run_id']} is recorded twice with different results ({unequal})")


def parse(content: bytes, where: str) -> Line:
    """Return one line of a record, validated against `RunConfig` and its own run_id."""
    try:
        line = decode(content)
    except ValueError:
        raise FlatlibError(f"{where}: not JSON") from None
    if not isinstance(line, dict) or set(line) != set(FIELDS):
        found = ", ".join(line) if isinstance(line, dict) else type(line).__name__
        raise FlatlibError(f"{where}: expected the fields {', '.join(FIELDS)}; found {found}")
    if line["status"] not in STATUSES:
        raise FlatlibError(f"{where}: unknown status {line['status']!r}; allowed: {', '.join(STATUSES)}")
    if not all(isinstance(line[name], dict) for name in ("config", "measures", "trajectory", "provenance")):
        raise FlatlibError(f"{where}: config, measures, trajectory and provenance must be objects")
    try:
        run_id = RunConfig.from_json(line["config"]).run_id
    except FlatlibError as error:
        raise FlatlibError(f"{where}: {error} (written by another version of flatlib?)") from None
    if run_id != line["run_id"]:
        raise FlatlibError(f"{where}: the configuration does not hash to run_id {line['run_id']!r}")
    check_numbers(line, where)
    return line


def check_numbers(line: Line, where: str) -> None:
    """Check that measures are numbers or null, and trajectories lists of them, all of one length."""
    for name, value in line["measures"].items():
        if type(value) not in NUMBERS:
            raise FlatlibError(f"{where}: measure {name} is not a number")
    columns = line["trajectory"].values()
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) > 1:
        raise FlatlibError(f"{where}: the trajectory's columns must be lists of one length")
    if not all(NUMBERS.issuperset(map(type, column)) for column in columns):
        raise FlatlibError(f"{where}: the trajectory holds something that is not a number")


def difference(one: Line, other: Line) -> str:
    """Return the first difference of two lines of one run, their provenance aside; empty if there is none."""
    if one["status"] != other["status"]:
        return f"status {one['status']} and {other['status']}"
    for name in sorted(set(one["measures"]) | set(other["measures"])):
        first, second = one["measures"].get(name), other["measures"].get(name)
        if first != second:
            return f"{name} {first} and {second}"
    return "" if one["trajectory"] == other["trajectory"] else "the trajectories"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of `path`, and raise a `FlatlibError` for an error of the file system in the context."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def check_writable(path: Path) -> None:
    """Raise a `FlatlibError`, before anything is trained rather than after, if `path` cannot be appended to."""
    with writing(path):
        path.open("ab").close()


def encode(line: dict[str, Any]) -> bytes:
    """Return the bytes of one line, its newline included."""
    return json.dumps(finite(line), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def append(path: Path, line: dict[str, Any]) -> None:
    """Add one finished run, flushed and synced before this returns; a torn tail left by a crash is cut off first.

    Args:
        path: The record; it is created, with its folder, if it is absent.
        line: As `flatlib.runs.executors.run_one` returns it; a number that is not finite is written as null.

    Raises:
        FlatlibError: If the file cannot be written.
    """
    content = encode(line)
    with writing(path), path.open("a+b") as file:
        repair_tail(file)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def failures(path: Path) -> Path:
    """Return the file beside the record `path` that lists the runs which failed; these are tried again."""
    return path.with_suffix(FAILURES)


def list_records(folder: Path) -> dict[str, Path]:
    """Return the records in a chapter's folder by preset, without the lists of failed runs beside them."""
    found = {path.stem: path for path in folder.glob("*.jsonl") if not path.name.endswith(FAILURES)}
    return dict(sorted(found.items()))


def append_failure(path: Path, config: RunConfig, error: str, **more: float | None) -> None:
    """List a run of this record as failed, with its error; ``seconds``, the time after which it was cancelled."""
    append(failures(path), {"run_id": config.run_id, "config": config.to_json(), "error": error} | more)


def repair_tail(file: BinaryIO) -> None:
    """End `file` (open for reading and appending) with a whole line: finish the last one, or drop it if it is torn."""
    file.seek(0)
    text = file.read()
    tail = text.rpartition(b"\n")[2]
    if is_torn(tail):
        file.truncate(len(text) - len(tail))
    elif tail:
        file.write(b"\n")


def write(path: Path, lines: Iterable[Line]) -> None:
    """Replace the record `path` by these `lines`, written to a file beside it first: it is never incomplete.

    Raises:
        FlatlibError: If the file cannot be written.
    """
    scratch = path.with_name(path.name + ".part")
    content = b"".join(map(encode, lines))
    try:
        with writing(path):
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def finite(value: Any) -> Any:
    """Return `value` with every float that JSON does not have (nan, inf) replaced by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(lines: Iterable[Line]) -> pd.DataFrame:
    """Return one row for each of the `lines`: run_id, status, settings, measures, data (fingerprint of the images),
    trajectory.

    A measure that a run does not have is NaN, a field that is younger than the record has its default, a list of names
    is joined by ``+``. The cells of ``trajectory`` are dictionaries of lists (see `trajectories`).
    """
    lines, defaults = list(lines), RunConfig().to_json()
    if not lines:
        return pd.DataFrame(columns=["run_id", "status", "data", *defaults])
    settings = {name: value for name, value in defaults.items() if name not in ("measures", "track")}
    measures = {name: math.nan for line in lines for name in line["measures"]}
    blank = dict.fromkeys(("run_id", "status", "data")) | settings | measures | {"trajectory": None}
    rows = [blank | run["config"] | run["measures"] | run | {"data": run["provenance"].get("data")} for run in lines]
    columns = {name: [row[name] for row in rows] for name in blank}  # pandas is far faster with columns than with rows
    columns |= {name: ["+".join(names) for names in columns[name]] for name, value in settings.items() if value == []}
    return pd.DataFrame(columns)


def trajectories(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the trajectories of a table of runs, a row for each run and tracked update, with the run's settings."""
    names = ["run_id", "status", *(name for name in RunConfig().to_json() if name in runs)]
    long = [pd.DataFrame(run["trajectory"]).assign(**run[names]) for _, run in runs.iterrows()]
    return pd.concat(long, ignore_index=True) if long else pd.DataFrame()
