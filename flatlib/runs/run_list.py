"""A list of runs to train where no notebook runs: JSON lines that are checked when they are read, and never executed.

{"chapter", "preset", "run_id", "config": {...}}
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

FIELDS = ("chapter", "preset", "run_id", "config")
Group = tuple[str, str]
"""A chapter and a preset: the runs of one record, which is ``CHAPTER/PRESET.jsonl`` in its folder."""


def write(path: Path, groups: Mapping[Group, Iterable[RunConfig]]) -> None:
    """Write a list; `read` gives the groups and their runs back in the same order.

    Raises:
        FlatlibError: if the file cannot be written.
    """
    lines = [
        dict(zip(FIELDS, (*group, config.run_id, config.to_json()), strict=True))
        for group, configs in groups.items()
        for config in configs
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def read(path: Path) -> dict[Group, list[RunConfig]]:
    """The runs of a list by the record they belong to.

    Raises:
        FlatlibError: for a file that cannot be read, and for the first line that is not a run of this version, or
            whose names are no names of a folder and a file.
    """
    groups: dict[Group, list[RunConfig]] = {}
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise FlatlibError(f"{path}: cannot be read ({getattr(error, 'strerror', 'not text')})") from None
    for number, text in enumerate(content.splitlines(), start=1):
        group, config = parse(text, f"{path}, line {number}")
        groups.setdefault(group, []).append(config)
    return groups


def parse(text: str, where: str) -> tuple[Group, RunConfig]:
    """One line of a list."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise FlatlibError(f"{where}: not JSON") from None
    if not isinstance(line, dict) or set(line) != set(FIELDS) or not isinstance(line["config"], dict):
        raise FlatlibError(f"{where}: expected the fields {', '.join(FIELDS)}")
    group = line["chapter"], line["preset"]
    if not all(isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name) for name in group):
        raise FlatlibError(f"{where}: not a chapter and a preset: {group[0]!r}, {group[1]!r}")
    try:
        config = RunConfig.from_json(line["config"])
    except FlatlibError as error:
        raise FlatlibError(f"{where}: {error} (written by another version of flatlib?)") from None
    if config.run_id != line["run_id"]:
        raise FlatlibError(f"{where}: the configuration does not hash to run_id {line['run_id']!r}")
    return group, config
