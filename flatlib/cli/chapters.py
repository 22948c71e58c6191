"""`flatlib run`, `refresh`, `new` and `book`: chapters executed, published, begun and rendered."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlib.errors import FlatlibError


def add(commands: argparse._SubParsersAction) -> None:
    """The commands and their options."""
    run = commands.add_parser("run", help="rerun chapters at a preset, with your own parameters")
    which(run, "smoke")
    run.add_argument("--records", type=Path, help="folder to read and append records in (default _build/records)")
    run.add_argument("--output", type=Path, help="folder for the executed notebooks (default _build/run/PRESET)")
    run.add_argument("--dry-run", action="store_true", help="train nothing; say what is missing and what it takes")
    where(run)
    run.set_defaults(command=run_chapters)

    refresh = commands.add_parser("refresh", help="complete the committed records and publish the pages again")
    refresh.add_argument(
        "chapters", nargs="+", metavar="CHAPTER", help="a chapter or another page's name, or all (chapters)"
    )
    refresh.add_argument("--preset", default="small")
    where(refresh)
    refresh.set_defaults(command=refresh_chapters)

    new = commands.add_parser("new", help="write a new chapter's claim, notebook and presets from the skeleton")
    new.add_argument("chapter", metavar="CHAPTER", help="its number and name, such as 12_batch_order")
    new.set_defaults(command=new_chapter)

    book = commands.add_parser("book", help="render the book")
    book.add_argument("--chapters", type=Path, help="an executed notebook, or a folder of them, to show")
    book.add_argument("--output", type=Path, help="folder to render into (default _build)")
    book.add_argument(
        "--pdf", type=Path, metavar="FILE", help="print the whole book to this file, by Chromium or Chrome"
    )
    book.add_argument("--repository", help="where it is published from, https://github.com/OWNER/NAME: launch buttons")
    book.add_argument("--branch", default="main", help="branch of the repository (default main)")
    book.add_argument("--url", default="", help="address of the published pages (default that of GitHub Pages)")
    book.add_argument("--notebooks", default="", help="branch with this build's _sources, for Colab (default no Colab)")
    book.set_defaults(command=render_book)


def which(command: argparse.ArgumentParser, preset: str) -> None:
    """The options that say which chapters, and at which settings; `preset` is the default one."""
    command.add_argument("chapters", nargs="+", metavar="CHAPTER", help="a chapter's name, or all")
    command.add_argument("--preset", default=preset, help=f"{preset} (default) or another folder of book/presets")
    command.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))


def where(command: argparse.ArgumentParser) -> None:
    """The options that say where and how wide the runs are spread."""
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    command.add_argument("--scheduler", default="", help="address of a Dask scheduler to train on, tcp://HOST:8786")
    command.add_argument("--time-limit", default="0", help="end a chapter's training after so long: 90, 8m or 2h")


def seconds(text: str) -> float:
    """A length of time: a number of seconds, or one with s, m or h.

    >>> seconds("90"), seconds("1.5m"), seconds("2h")
    (90.0, 90.0, 7200.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise FlatlibError(f"--time-limit: expected a time such as 90, 8m or 2h, got {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def chosen(names: Sequence[str]) -> tuple[Path, list[str]]:
    """The checkout and the chapters meant; every name is checked before the first one runs."""
    from flatlib.book.paths import find_root, notebook, notebooks

    root = find_root()
    chapters = list(notebooks(root)) if "all" in names else list(dict.fromkeys(names))
    for name in chapters:
        notebook(root, name)
    return root, chapters


def prepared(options: argparse.Namespace, given: dict[str, Any]) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The checkout and each chapter's checked parameters; a bad one stops everything before anything trains."""
    from flatlib.execution import Execution

    root, chapters = chosen(options.chapters)
    if "all" in options.chapters:  # all that have this preset; without any, the first one says which presets there are
        having = [name for name in chapters if (root / "book" / "presets" / options.preset / f"{name}.yaml").is_file()]
        chapters = having or chapters[:1]
    limit = seconds(options.time_limit)
    execution = Execution(
        device=options.device,
        workers=options.workers,
        scheduler=options.scheduler or None,
        time_limit=limit or None,
    )
    from flatlib.book.execute import settings
    from flatlib.device import resolve  # torch takes seconds to import: not before the names are right

    resolve(execution.device)
    where_given = {"scheduler": options.scheduler, "time_limit": limit}
    given = {"device": options.device, "workers": options.workers} | where_given | given
    return root, {name: settings(root, name, options.preset, {"preset": options.preset} | given) for name in chapters}


def run_chapters(options: argparse.Namespace) -> int:
    """`flatlib run`: as many chapters at a time as workers allow; a verdict line per chapter comes last."""
    given = dict(options.given)
    if options.records is not None:
        given["records"] = str(options.records.resolve())
    root, chapters = prepared(options, given)
    if options.dry_run:
        return print_plan(root, chapters, options)
    output = (options.output or root / "_build" / "run" / options.preset).resolve()
    if output.is_relative_to(root / "book"):
        raise FlatlibError(f"--output: {output} is published; only flatlib refresh writes there")
    from flatlib.book.execute import run_chapters as executed_chapters

    at_once = min(len(chapters), options.workers)
    chapters = {name: values | {"workers": max(1, values["workers"] // at_once)} for name, values in chapters.items()}
    verdicts, failed = [], 0
    for name, found in executed_chapters(root, chapters, output, at_once):
        if isinstance(found, FlatlibError):
            print(f"flatlib: {found}", file=sys.stderr)
            failed = 2
        else:
            verdicts.append(f"{name}: {found}")
    if verdicts:
        print(f"to read these pages: flatlib book --chapters {output}", file=sys.stderr)
        print(*verdicts, sep="\n")
    return failed


def print_plan(root: Path, chapters: dict[str, dict[str, Any]], options: argparse.Namespace) -> int:
    """`flatlib run --dry-run`: a table of what is missing and what that takes here, and what its numbers are."""
    from flatlib.book.dry_run import asked
    from flatlib.device import resolve
    from flatlib.runs.plan.estimate import costs, notes, plan_table
    from flatlib.runs.plan.steps import BUDGET

    device = resolve(options.device)
    wanted = {name: asked(root, name, values) for name, values in chapters.items()}
    if any(found.missing for found in wanted.values()):
        print(f"timing steps on random images, about {BUDGET:.0f} s", file=sys.stderr)
    expected, steps = costs(wanted, device)
    at_once = min(options.workers, os.cpu_count() or 1) if device.type == "cpu" else 1
    print(plan_table(wanted, expected, at_once).to_string(index=False))
    print(*notes(wanted, expected, steps, device, at_once), sep="\n")
    return 0


def refresh_chapters(options: argparse.Namespace) -> int:
    """`flatlib refresh`: the only command that writes committed records and notebooks."""
    from flatlib.book.paths import find_root, other_pages

    pages = other_pages(find_root())
    named = [name for name in pages if name in options.chapters]
    options.chapters = [name for name in options.chapters if name not in pages]
    root, chapters = prepared(options, {})
    from flatlib.book.execute import publish, refresh

    for name, values in chapters.items():
        print(f"{name}: {refresh(root, name, options.preset, values)}")
    for name in named:
        publish(pages[name])
        print(f"{name}: executed")
    return 0


def new_chapter(options: argparse.Namespace) -> int:
    """`flatlib new`: the files written, and how to run them."""
    from flatlib.book.paths import find_root
    from flatlib.book.scaffold import create

    root = find_root()
    for path in create(root, options.chapter):
        print(path.relative_to(root))
    print(f"to run it: flatlib run {options.chapter} --preset smoke", file=sys.stderr)
    return 0


def render_book(options: argparse.Namespace) -> int:
    """`flatlib book`: render, and say which page to open."""
    if options.pdf is not None:
        from flatlib.book.pdf import print_book

        print(f"open {print_book(options.pdf, chapters=options.chapters)}")
        return 0
    from flatlib.book.build import build

    names = ("repository", "branch", "url", "notebooks")
    address = {name: getattr(options, name) for name in names} if options.repository else None
    if address is None and (options.url or options.notebooks):
        raise FlatlibError("--url and --notebooks say where a book is published; they want --repository, too")
    print(f"open {build(chapters=options.chapters, output=options.output, address=address)}")
    return 0
