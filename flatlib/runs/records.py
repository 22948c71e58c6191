"""The record: an append-only file with one JSON line per run, durable line by line and never executed.

    {"run_id", "config": {...}, "status", "measures": {...}, "trajectory": {name: [...]}, "provenance": {...}}

A line counts once its newline is on disk. A torn last line (a power cut, a full disk) is dropped with a warning; any
other damage is an error that names the line, because a record that silently shrinks is worse than none.
"""

import contextlib
import itertools
import json
import math
import operator
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs.recorded import recorded_run_id

__all__ = ["RecordWarning", "append", "failures", "in_folder", "read", "table", "trajectories", "write"]

FIELDS = ("run_id", "config", "status", "measures", "trajectory", "provenance")
FAILURES = ".failures.jsonl"
STATUSES = ("reached", "capped", "diverged")
NUMBERS = frozenset((int, float, bool, type(None)))  # what JSON's numbers, truth values and null are read as
Line = dict[str, Any]
Lines = dict[str, Line]  # by run_id, in the order of the record


class RecordWarning(UserWarning):
    """Something in a record was set aside; the message says what and where."""


def read(path: Path) -> Lines:
    """All lines of the record at `path` by run_id; an absent file is an empty record.

    Raises:
        FlatlibError: if a line is not JSON, is not a run of this version's fields, or contradicts another one.
    """
    lines: Lines = {}
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be read ({error.strerror})") from None
    *complete, tail = text.split(b"\n")
    for number, content in enumerate(complete, start=1):
        add(lines, parse(content, f"{path}, line {number}"), f"{path}, line {number}")
    if torn(tail):
        warnings.warn(f"{path}: the last line is torn and was dropped", RecordWarning, stacklevel=2)
    elif tail:
        add(lines, parse(tail, f"{path}, last line"), f"{path}, last line")
    return lines


def torn(tail: bytes) -> bool:
    """Whether what follows the last newline is a part of a line; a whole one is worth keeping."""
    try:
        return bool(tail) and not orjson.loads(tail)
    except ValueError:
        return True


def add(lines: Lines, line: Line, where: str) -> None:
    """Add one line to `lines`; the same run twice must agree, or the record cannot be trusted."""
    known = lines.setdefault(line["run_id"], line)
    difference = known is not line and disagreement(known, line)
    if difference:
        raise FlatlibError(f"{where}: run {line['run_id']} is recorded twice with different results ({difference})")


def parse(content: bytes, where: str) -> Line:
    """One line of a record, validated against `RunConfig` and its own run_id."""
    try:
        line = orjson.loads(content)  # three times as fast as json
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
        run_id = recorded_run_id(line["config"])
    except FlatlibError as error:
        raise FlatlibError(f"{where}: {error} (written by another version of flatlib?)") from None
    if run_id != line["run_id"]:
        raise FlatlibError(f"{where}: the configuration does not hash to run_id {line['run_id']!r}")
    check_numbers(line, where)
    return line


def check_numbers(line: Line, where: str) -> None:
    """Measures are numbers (or null), trajectories lists of them, all as long as each other."""
    for name, value in line["measures"].items():
        if type(value) not in NUMBERS:
            raise FlatlibError(f"{where}: measure {name} is not a number")
    columns = line["trajectory"].values()
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) > 1:
        raise FlatlibError(f"{where}: the trajectory's columns must be lists of one length")
    if not all(NUMBERS.issuperset(map(type, column)) for column in columns):
        raise FlatlibError(f"{where}: the trajectory holds something that is not a number")


def disagreement(one: Line, other: Line) -> str:
    """What two lines of one run disagree on, besides where and when they were made; empty if nothing."""
    if one["status"] != other["status"]:
        return f"status {one['status']} and {other['status']}"
    for name in sorted(set(one["measures"]) | set(other["measures"])):
        first, second = one["measures"].get(name), other["measures"].get(name)
        if first != second:
            return f"{name} {first} and {second}"
    return "" if one["trajectory"] == other["trajectory"] else "the trajectories"


def check_writable(path: Path) -> None:
    """Raise before anything is trained rather than after, if `path` cannot be appended to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def append(path: Path, line: Line) -> None:
    """Add one finished run, flushed and synced before this returns; a torn tail left by a crash is cut off first.

    Args:
        path: the record; it is made, with its folder, if it is not there.
        line: as `flatlib.runs.sweep.run_one` makes it; what is not finite is written as null.

    Raises:
        FlatlibError: if the file cannot be written.
    """
    _append(path, line)


def _append(path: Path, line: Line) -> None:
    content = json.dumps(finite(line), separators=(",", ":"), allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            repair_tail(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def failures(path: Path) -> Path:
    """Where the runs that failed are written down, beside the record `path`: no results, and they are tried again."""
    return path.with_suffix(FAILURES)


def in_folder(folder: Path) -> dict[str, Path]:
    """The records of a chapter's folder by preset, without the failed runs written down beside them."""
    found = {path.stem: path for path in folder.glob("*.jsonl") if not path.name.endswith(FAILURES)}
    return dict(sorted(found.items()))


def append_failure(path: Path, config: RunConfig, error: str, **more: float) -> None:
    """Write down that a run of this record was not finished, and why; ``seconds``, after how long it was given up."""
    line = {"run_id": config.run_id, "config": config.to_json(), "error": error} | more
    _append(failures(path), line)


def repair_tail(file: Any) -> None:
    """End `file` (open for reading and appending) with a whole line: finish the last one, or drop it if it is torn."""
    file.seek(0)
    text = file.read()
    tail = text.rpartition(b"\n")[2]
    if torn(tail):
        file.truncate(len(text) - len(tail))
    elif tail:
        file.write(b"\n")


def write(path: Path, lines: Iterable[Line]) -> None:
    """Replace the record at `path` by these `lines`: written beside it first, so that it is never half there.

    Raises:
        FlatlibError: if the file cannot be written.
    """
    scratch = path.with_name(path.name + ".part")
    content = "".join(json.dumps(finite(line), separators=(",", ":"), allow_nan=False) + "\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def finite(value: Any) -> Any:
    """`value` with every float that JSON has no word for (nan, inf) replaced by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(lines: Iterable[Line]) -> pd.DataFrame:
    """One row for each of the `lines`: run_id, status, the configuration's fields, the measures, ``data`` (the
    fingerprint of the images) and ``trajectory`` (its lists, see `trajectories`). A measure that a run does not have
    is NaN, a field that is younger than the record has its default, a list of names is joined by ``+``."""
    lines, defaults = list(lines), RunConfig().to_json()
    if not lines:
        return pd.DataFrame(columns=["run_id", "status", "data", *defaults])
    settings = {name: value for name, value in defaults.items() if name not in ("measures", "track")}
    measures = dict.fromkeys(itertools.chain.from_iterable(line["measures"] for line in lines), math.nan)
    blank = dict.fromkeys(("run_id", "status", "data")) | settings | measures | {"trajectory": None}
    row = operator.itemgetter(*blank)
    # A run at a time, as they lie in memory, then turned: pandas takes columns far faster than rows.
    rows = [
        row(blank | line["config"] | line["measures"] | line | {"data": line["provenance"].get("data")})
        for line in lines
    ]
    columns = dict(zip(blank, map(list, zip(*rows, strict=True)), strict=True))
    columns |= {name: ["+".join(names) for names in columns[name]] for name, value in settings.items() if value == []}
    return pd.DataFrame(columns)


def trajectories(runs: pd.DataFrame) -> pd.DataFrame:
    """The trajectories of a table of runs, one row per run and tracked update, with the run's settings beside it."""
    long = []
    for _, run in runs.iterrows():
        points = pd.DataFrame(run["trajectory"])
        settings = {name: run[name] for name in RunConfig().to_json() if name in runs}
        long.append(points.assign(run_id=run["run_id"], status=run["status"], **settings))
    return pd.concat(long, ignore_index=True) if long else pd.DataFrame()
