"""`flatlib records`: show, merge and check records, and plan the seeds that they lack."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flatlib.errors import FlatlibError

if TYPE_CHECKING:
    import pandas as pd

MAIN_MEASURES = ("updates", "train_loss", "test_accuracy", "lambda_max", "lambda_max_residual")  # what `show` prints


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its actions."""
    record = commands.add_parser("records", help="show, merge or check records, or plan further seeds")
    actions = record.add_subparsers(required=True, metavar="ACTION")
    for name, command, text in (
        ("show", show_records, "print the runs of a record as a table"),
        ("check", check_records, "read every line and report the first that is wrong"),
        ("merge", merge_records, "join records, or folders of them, made in several places"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("paths", nargs="+", type=Path, metavar="RECORD")
        action.set_defaults(command=command)
        if name == "merge":
            action.add_argument("--output", type=Path, required=True, help="the record, or the folder, to write")
    power = actions.add_parser("power", help="print how many seeds would decide each open prediction, and their time")
    power.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters (default all)")
    power.set_defaults(command=plan_seeds)


def show_records(options: argparse.Namespace) -> int:
    """Run `flatlib records show`: print settings that vary, status and main measures, one run a row."""
    from flatlib.config import RunConfig
    from flatlib.runs import records

    lines = [line for path in existing(options.paths) for line in records.read(path).values()]
    runs = records.table(lines)
    varying = [name for name in RunConfig().to_json() if name in runs and runs[name].astype(str).nunique() > 1]
    fixed = [name for name in ("dataset", "model") if name not in varying]
    telling = ["run_id", *fixed, *varying, "status", *(name for name in MAIN_MEASURES if name in runs)]
    print(f"{len(lines)} runs" if runs.empty else f"{runs[telling].to_string(index=False)}\n{len(lines)} runs")
    return 0


def check_records(options: argparse.Namespace) -> int:
    """Run `flatlib records check`: print one line per record; the first bad line is an error with its place."""
    from flatlib.runs import records

    for path in existing(options.paths):
        lines = records.read(path)
        statuses = [line["status"] for line in lines.values()]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in records.STATUSES)
        data = {line["provenance"].get("data") for line in lines.values()}
        print(f"{path}: {len(lines)} runs ({counts}) on {len(data)} data set(s)")
    return 0


def plan_seeds(options: argparse.Namespace) -> int:
    """Run `flatlib records power`: print one row per inconclusive prediction of the committed records."""
    import pandas as pd

    from flatlib.book.paths import find_root, notebook
    from flatlib.claims import CLAIMS
    from flatlib.claims.power import power_plan
    from flatlib.runs import records

    root = find_root()
    plans = {}
    for name in [notebook(root, chapter).stem for chapter in options.chapters] or CLAIMS:
        for scale, path in records.list_records(root / "book" / "records" / name).items():
            lines = records.read(path)
            seconds = pd.Series({run_id: line["provenance"].get("seconds", 0.0) for run_id, line in lines.items()})
            plans[name, scale] = power_plan(CLAIMS[name], records.table(lines.values()), seconds)
    if not plans:
        raise FlatlibError("no record of these chapters; flatlib refresh makes one")
    table = pd.concat(plans, names=["chapter", "scale"]).reset_index(["chapter", "scale"])
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep="> 20"))
    print(f"{len(table)} open predictions; the seeds that decide them take {decidable(table):.0f} core-minutes")
    return 0


def decidable(table: "pd.DataFrame") -> float:
    """Return the minutes of the longest plan of each chapter and scale whose number of seeds is known."""
    known = table[table["seeds"].notna() & (table["remark"] == "")]
    return float(known.groupby(["chapter", "scale"])["minutes"].max().sum())


def merge_records(options: argparse.Namespace) -> int:
    """Run `flatlib records merge`: write all runs of all records once, or nothing if two of them differ.

    Of folders, every ``CHAPTER/PRESET.jsonl`` is merged into its namesake in the output folder, which keeps its runs.
    """
    from flatlib.runs import records
    from flatlib.runs.lock import locked

    folders = options.paths[0].is_dir()
    targets = records_in(options.paths, options.output) if folders else {options.output: options.paths}
    with contextlib.ExitStack() as stack:
        merged: dict[Path, records.Lines] = {}
        for target, paths in targets.items():
            if target.is_file():
                stack.enter_context(locked(target))
            lines = merged.setdefault(target, {})
            for path in existing(paths):
                for line in records.read(path).values():
                    records.merge_line(lines, line, str(path))
        for target, lines in merged.items():
            if lines or target == options.output:  # no empty record is published
                records.write(target, lines.values())
            print(f"{target}: {len(lines)} runs from {len(targets[target])} records")
    return 0


def records_in(folders: Sequence[Path], output: Path) -> dict[Path, list[Path]]:
    """Return by target in `output` the records to merge; a target that exists comes first among them."""
    from flatlib.runs import records

    targets: dict[Path, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FlatlibError(f"{folder}: no such folder; merge folders with folders and records with records")
        for chapter in sorted(path for path in folder.iterdir() if path.is_dir()):
            for path in records.list_records(chapter).values():
                target = output / chapter.name / path.name
                targets.setdefault(target, [target] if target.is_file() else []).append(path)
    if not targets:
        raise FlatlibError(f"{', '.join(map(str, folders))}: no such record as CHAPTER/PRESET.jsonl in it")
    return targets


def existing(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the paths, if each is a file."""
    for path in paths:
        if not path.is_file():
            raise FlatlibError(f"{path}: no such record")
    return paths
