"""The command line: run chapters, refresh what is published, render the book, look after records."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlib import __version__
from flatlib.errors import FlatlibError

MAIN_MEASURES = ("updates", "train_loss", "test_accuracy", "lambda_max", "lambda_max_residual")  # what `show` prints


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; bad input is one line on stderr and exit code 2, an interrupt keeps every finished run."""
    options = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"flatlib: warning: {message}", file=sys.stderr)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except FlatlibError as error:
        print(f"flatlib: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `flatlib records show ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("flatlib: interrupted; every finished run is in the record, the same command goes on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="flatlib", description="Sharpness and generalization, claim by claim.")
    top.add_argument("--version", action="version", version=f"flatlib {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="rerun chapters at a preset, with your own parameters")
    run.add_argument("chapters", nargs="+", metavar="CHAPTER", help="a chapter's name, or all")
    run.add_argument("--preset", default="smoke", help="smoke (default), small or paper: the scale of the runs")
    run.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--records", type=Path, help="folder to read and append records in (default _build/records)")
    run.add_argument("--output", type=Path, help="folder for the executed notebooks (default _build/run/PRESET)")
    where(run)
    run.set_defaults(command=run_chapters)

    refresh = commands.add_parser("refresh", help="complete the committed records and publish the pages again")
    refresh.add_argument("chapters", nargs="+", metavar="CHAPTER")
    refresh.add_argument("--preset", default="small")
    where(refresh)
    refresh.set_defaults(command=refresh_chapters)

    book = commands.add_parser("book", help="render the book")
    book.add_argument("--chapters", type=Path, help="folder of executed notebooks to show in place of the published")
    book.add_argument("--output", type=Path, help="folder to render into (default _build)")
    book.set_defaults(command=render_book)

    bench = commands.add_parser("bench", help="time this package against the libraries that measure the same")
    bench.add_argument("what", choices=["curvature"], help="curvature: the largest eigenvalue of the Hessian")
    bench.add_argument("--cases", default="*", help="shell patterns of cases, with commas between them (default all)")
    bench.add_argument("--dataset", default="cifar10", help="images the networks are trained on (default cifar10)")
    bench.add_argument("--repeats", type=int, default=5, help="starts of each search, and timings (default 5)")
    bench.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    bench.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    bench.add_argument("--output", type=Path, help="JSON file to write")
    bench.set_defaults(command=run_benchmark)

    record = commands.add_parser("records", help="show, merge or check records")
    actions = record.add_subparsers(required=True, metavar="ACTION")
    for name, command, text in (
        ("show", show_records, "print the runs of a record as a table"),
        ("check", check_records, "read every line and say what is wrong"),
        ("merge", merge_records, "join records of the same chapter made in several places"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("paths", nargs="+", type=Path, metavar="RECORD")
        action.set_defaults(command=command)
        if name == "merge":
            action.add_argument("--output", type=Path, required=True, help="the record to write")
    return top


def where(command: argparse.ArgumentParser) -> None:
    """The options that say where and how wide the runs are spread."""
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time")


def chosen(names: Sequence[str]) -> tuple[Path, list[str]]:
    """The checkout and the chapters meant; every name is checked before the first one runs."""
    from flatlib.checkout import find_root, notebook, notebooks

    root = find_root()
    chapters = list(notebooks(root)) if "all" in names else list(dict.fromkeys(names))
    for name in chapters:
        notebook(root, name)
    return root, chapters


def prepared(options: argparse.Namespace, given: dict[str, Any]) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The checkout and each chapter's checked parameters; a bad one stops everything before anything trains."""
    from flatlib.config import Execution

    root, chapters = chosen(options.chapters)
    execution = Execution(device=options.device, workers=options.workers)
    from flatlib.device import resolve  # torch takes seconds to import: not before the names are right
    from flatlib.execute import settings

    resolve(execution.device)
    given = {"device": options.device, "workers": options.workers} | given
    return root, {name: settings(root, name, options.preset, {"preset": options.preset} | given) for name in chapters}


def run_chapters(options: argparse.Namespace) -> int:
    """`flatlib run`: every chapter in turn; a verdict line per chapter comes last."""
    given = dict(options.given)
    if options.records is not None:
        given["records"] = str(options.records.resolve())
    root, chapters = prepared(options, given)
    from flatlib.execute import run

    output = (options.output or root / "_build" / "run" / options.preset).resolve()
    if output.is_relative_to(root / "book"):
        raise FlatlibError(f"--output: {output} is published; only flatlib refresh writes there")
    verdicts, failed = [], 0
    for name, values in chapters.items():
        print(f"{name} at {options.preset} -> {output / name}.ipynb", file=sys.stderr)
        try:
            verdicts.append(f"{name}: {run(root, name, values, output / f'{name}.ipynb')}")
        except FlatlibError as error:
            print(f"flatlib: {error}", file=sys.stderr)
            failed = 2
    if verdicts:
        print(f"to read these pages: flatlib book --chapters {output}", file=sys.stderr)
        print(*verdicts, sep="\n")
    return failed


def refresh_chapters(options: argparse.Namespace) -> int:
    """`flatlib refresh`: the only command that writes committed records and notebooks."""
    root, chapters = prepared(options, {})
    from flatlib.execute import refresh

    for name, values in chapters.items():
        print(f"{name}: {refresh(root, name, options.preset, values)}")
    return 0


def render_book(options: argparse.Namespace) -> int:
    """`flatlib book`: render, and say which page to open."""
    from flatlib.book import build

    print(f"open {build(chapters=options.chapters, output=options.output)}")
    return 0


def run_benchmark(options: argparse.Namespace) -> int:
    """`flatlib bench`: a table on stdout, progress on stderr, everything measured in a JSON file."""
    if options.repeats < 1 or options.threads < 1:
        raise FlatlibError("--repeats and --threads: at least 1")
    from flatlib.bench.curvature import benchmark, report
    from flatlib.bench.problems import chosen as chosen_cases
    from flatlib.bench.problems import problems

    cases = chosen_cases(options.cases)
    entries = benchmark(problems(cases, options.dataset, options.device), options.repeats, options.threads)
    print(report(entries))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return 0


def show_records(options: argparse.Namespace) -> int:
    """`flatlib records show`: settings that vary, status and main measures, one run a row."""
    from flatlib import records
    from flatlib.config import RunConfig

    lines = [line for path in existing(options.paths) for line in records.read(path).values()]
    runs = records.table(lines)
    varying = [name for name in RunConfig().to_json() if name in runs and runs[name].astype(str).nunique() > 1]
    fixed = [name for name in ("dataset", "model") if name not in varying]
    telling = ["run_id", *fixed, *varying, "status", *(name for name in MAIN_MEASURES if name in runs)]
    print(f"{len(lines)} runs" if runs.empty else f"{runs[telling].to_string(index=False)}\n{len(lines)} runs")
    return 0


def check_records(options: argparse.Namespace) -> int:
    """`flatlib records check`: one line per record; the first bad line stops with its place."""
    from flatlib import records

    for path in existing(options.paths):
        lines = records.read(path)
        statuses = [line["status"] for line in lines.values()]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in records.STATUSES)
        data = {line["provenance"].get("data") for line in lines.values()}
        print(f"{path}: {len(lines)} runs ({counts}) on {len(data)} data set(s)")
    return 0


def merge_records(options: argparse.Namespace) -> int:
    """`flatlib records merge`: all runs of all records once; a contradiction is reported and nothing is written."""
    from flatlib import records

    merged: records.Lines = {}
    for path in existing(options.paths):
        for line in records.read(path).values():
            records.add(merged, line, str(path))
    records.write(options.output, merged.values())
    print(f"{options.output}: {len(merged)} runs from {len(options.paths)} records")
    return 0


def existing(paths: Sequence[Path]) -> Sequence[Path]:
    """`paths`, if each is a file."""
    for path in paths:
        if not path.is_file():
            raise FlatlibError(f"{path}: no such record")
    return paths


if __name__ == "__main__":
    sys.exit(main())
