"""`flatlib run`, `refresh`, `resolve`, `new` and `book`: execute, publish, create and render chapters."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlib.book.paths import find_root, notebook, notebooks, other_pages
from flatlib.book.scaffold import create
from flatlib.errors import FlatlibError

if TYPE_CHECKING:
    from flatlib.book.chapter import Chapter


def add(commands: argparse._SubParsersAction) -> None:
    """Add the commands and their options."""
    run = commands.add_parser("run", help="rerun chapters at a preset, with your own parameters")
    run.add_argument("chapters", nargs="+", metavar="CHAPTER", help="a chapter's name, or all")
    run.add_argument("--preset", default="smoke", help="smoke (default) or another folder of book/presets")
    run.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--records", type=Path, help="folder to read and append records in (default _build/records)")
    run.add_argument("--data", type=Path, help="folder with the data sets, NAME.npz (default FLATLIB_DATA)")
    run.add_argument("--output", type=Path, help="folder for the executed notebooks (default _build/run/PRESET)")
    run.add_argument("--dry-run", action="store_true", help="train nothing; count the missing runs and their time")
    run.add_argument("--no-notebook", action="store_true", help="only train and record; needs no notebook packages")
    where(run, "end the training of a chapter, of all of them with --no-notebook, after 90, 8m or 2h")
    run.set_defaults(command=run_chapters)

    refresh = commands.add_parser("refresh", help="complete the committed records and publish the pages again")
    refresh.add_argument("chapters", nargs="+", metavar="CHAPTER", help="a chapter, another page, or all chapters")
    refresh.add_argument("--preset", default="small", help="small (default) or another folder of book/presets")
    where(refresh, "end the training of a chapter after 90, 8m or 2h")
    refresh.set_defaults(command=refresh_chapters)

    resolve = commands.add_parser("resolve", help="make an executed notebook readable outside the book")
    resolve.add_argument("notebook", type=Path, help="the notebook, such as papermill's output; it is rewritten")
    resolve.add_argument("--output", type=Path, help="file to write instead")
    resolve.set_defaults(command=resolve_notebook)

    new = commands.add_parser("new", help="write a new chapter's claim, notebook and presets from a template")
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


def where(command: argparse.ArgumentParser, limit: str) -> None:
    """Add the options for device, workers, cluster and time."""
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    command.add_argument("--scheduler", default="", help="address of a Dask scheduler to train on, tcp://HOST:8786")
    command.add_argument("--time-limit", default="0", help=limit)


def seconds(text: str) -> float:
    """Return a length of time, given as a number of seconds or one with s, m or h.

    >>> seconds("90"), seconds("1.5m"), seconds("2h")
    (90.0, 90.0, 7200.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise FlatlibError(f"--time-limit: expected a time such as 90, 8m or 2h, got {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def names_of(root: Path, options: argparse.Namespace) -> list[str]:
    """Return the names of the requested chapters; ``all`` are those that have the preset."""
    if "all" not in options.chapters:
        return [notebook(root, name).stem for name in dict.fromkeys(options.chapters)]
    presets = root / "book" / "presets" / options.preset
    every = list(notebooks(root))  # if none has the preset, the error of the first one lists the presets
    return [name for name in every if (presets / f"{name}.yaml").is_file()] or every[:1]


def prepare(options: argparse.Namespace, given: dict[str, Any]) -> "list[Chapter]":
    """Return the chapters at their checked parameters; a bad one ends the command before anything trains."""
    names = names_of(find_root(), options)
    values = {name: getattr(options, name) for name in ("device", "workers", "scheduler")}
    values |= {"time_limit": seconds(options.time_limit)} | given
    from flatlib.book.chapter import Chapter  # imports torch, in seconds: not before the names are right
    from flatlib.device import resolve

    chapters = [Chapter.at_preset(name, options.preset, values) for name in names]
    for device in {chapter.execution.device for chapter in chapters}:
        resolve(device)
    return chapters


def run_chapters(options: argparse.Namespace) -> int:
    """Run `flatlib run`."""
    if options.data is not None:
        os.environ["FLATLIB_DATA"] = str(options.data.resolve())  # kernels and workers inherit it
    given = dict(options.given)
    if options.records is not None:
        given["records"] = str(options.records.resolve())
    chapters = prepare(options, given)
    if options.dry_run:
        return print_plan(chapters, options.workers)
    if options.no_notebook:
        return train_chapters(chapters, seconds(options.time_limit))
    return execute_chapters(chapters, options)


def print_plan(chapters: "list[Chapter]", workers: int) -> int:
    """Print the missing runs of chapters and the time they take."""
    from flatlib.book.headless import plan
    from flatlib.runs.estimate import NOTE

    table, notes = plan(chapters, workers)
    print(table.to_string(index=False))
    print(NOTE, *notes, sep="\n")
    return 0


def train_chapters(chapters: "list[Chapter]", time_limit: float) -> int:
    """Train chapters without their notebooks; return 0 once no run is missing, and 2 otherwise."""
    from flatlib.book.headless import progress, train

    for error in train(chapters, time_limit):
        print(f"flatlib: {error}", file=sys.stderr)
    complete, lines = zip(*map(progress, chapters), strict=True)
    print(*lines, sep="\n")
    return 0 if all(complete) else 2


def execute_chapters(chapters: "list[Chapter]", options: argparse.Namespace) -> int:
    """Execute notebooks, as many at a time as workers allow, and print a verdict line for each."""
    from flatlib.book.execute import run_chapters as run_notebooks

    root = find_root()
    output = (options.output or root / "_build" / "run" / options.preset).resolve()
    if output.is_relative_to(root / "book"):
        raise FlatlibError(f"--output: {output} is published; only flatlib refresh writes there")
    at_once = min(len(chapters), options.workers)
    values = {chapter.claim.chapter: vars(chapter.parameters) for chapter in chapters}
    values = {name: own | {"workers": max(1, own["workers"] // at_once)} for name, own in values.items()}
    verdicts, failed = [], 0
    for name, found in run_notebooks(root, values, output, at_once):
        if isinstance(found, FlatlibError):
            print(f"flatlib: {found}", file=sys.stderr)
            failed = 2
        else:
            verdicts.append(f"{name}: {found}")
    if verdicts:
        where = "" if output.parent == root / "_build" / "run" else f" --chapters {output}"
        print(f"to read these pages: flatlib book{where}", file=sys.stderr)
        print(*verdicts, sep="\n")
    return failed


def refresh_chapters(options: argparse.Namespace) -> int:
    """Run `flatlib refresh`, the only command that writes committed records and notebooks."""
    pages = other_pages(find_root())
    named = [name for name in pages if name in options.chapters]
    options.chapters = [name for name in options.chapters if name not in pages]
    chapters = prepare(options, {})
    from flatlib.book.execute import publish, refresh

    for chapter in chapters:
        print(f"{chapter.claim.chapter}: {refresh(chapter)}")
    for name in named:
        publish(pages[name])
        print(f"{name}: executed")
    return 0


def resolve_notebook(options: argparse.Namespace) -> int:
    """Run `flatlib resolve`: put values, citations and figure numbers into the text of an executed notebook."""
    from flatlib.book.resolve import resolve_file

    print(f"open {resolve_file(options.notebook, options.output)}")
    return 0


def new_chapter(options: argparse.Namespace) -> int:
    """Run `flatlib new`: print the files written, and how to run them."""
    root = find_root()
    for path in create(root, options.chapter):
        print(path.relative_to(root))
    print(f"to run it: flatlib run {options.chapter} --preset smoke", file=sys.stderr)
    return 0


def render_book(options: argparse.Namespace) -> int:
    """Run `flatlib book`: render, and print which page to open."""
    find_root()  # a missing checkout is reported before the imports, which take seconds
    if options.pdf is not None:
        from flatlib.book.pdf import print_book

        print(f"open {print_book(options.pdf, chapters=options.chapters)}")
        return 0
    from flatlib.book.build import build

    names = ("repository", "branch", "url", "notebooks")
    address = {name: getattr(options, name) for name in names} if options.repository else None
    if address is None and (options.url or options.notebooks):
        raise FlatlibError("--url and --notebooks name the place where a book is published; they need --repository")
    own = None if options.chapters or address else find_root() / "_build" / "run"
    page = build(chapters=options.chapters, output=options.output, address=address, runs=own)
    print(f"open {page}")
    for listed in sorted(page.parent.glob("book/runs/*.html")):
        print(f"your runs at {listed.stem}: {listed}")
    return 0
