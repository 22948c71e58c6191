"""The book as web pages: Jupyter Book on a copy of its sources, so that no build ever changes the checkout."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from flatlib.book import explorer
from flatlib.book.html import finish
from flatlib.book.links import broken
from flatlib.book.paths import CHAPTER, find_root
from flatlib.book.publish import Site
from flatlib.errors import FlatlibError

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]  # the package has no __main__
STRICT = ["--all", "-W", "-n", "--keep-going"]  # build every page, report every warning, fail if there was one
PROGRESS = re.compile(r"(reading sources|writing output)\.\.\. \[ *(\d+%)\]")
PROBLEM = re.compile(r"(WARNING|ERROR|Exception|Error): ")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def build(chapters: Path | None = None, output: Path | None = None, site: Site | None = None) -> Path:
    """Render the book and return its first page.

    Args:
        chapters: a folder of executed chapters, such as the output of ``flatlib run``; each takes the place of the
            committed chapter of the same name. By default the committed chapters are drawn.
        output: the pages go to ``output/html``, which is replaced as a whole and only if the build succeeds; what
            Jupyter Book said goes to ``output/book.log``. By default ``_build`` in the checkout.
        site: where the book will be published; without it no page links to a repository or an address of its own.

    Raises:
        FlatlibError: no checkout, no chapter to draw, a chapter that holds an error, a warning of Jupyter Book, a link
            that leads nowhere, or a folder that cannot be written.
    """
    output = Path(output).absolute() if output is not None else find_root() / "_build"
    check_replaceable(output / "html")
    with sources(chapters, output / "book.log") as (source, log):
        if site is not None:
            site.configure(source)
        pages = render(source, "html", log)
        finish(pages)
        if site is not None:
            site.finish(pages)
        check_links(pages)
        replace(pages, output / "html")
    return output / "html" / "index.html"


@contextmanager
def sources(chapters: Path | None, report: Path) -> Iterator[tuple[Path, TextIO]]:
    """A copy of the book's sources with `chapters` in place, for as long as it is needed, and the open `report`.

    Raises:
        FlatlibError: no checkout, no chapter to draw, a chapter that holds an error, a file that cannot be written.
    """
    root = find_root()
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="flatlib-book-") as work, report.open("w") as log:
            source = copy_source(root, Path(work) / "source")
            if chapters is not None:
                overlay(Path(chapters), source / "book")
            check_executed(source / "book")
            explorer.write(root, source / "book")
            yield source, log
    except OSError as error:
        raise FlatlibError(f"{error.filename or report}: cannot be written ({error.strerror})") from None


def check_replaceable(pages: Path) -> None:
    """Refuse to replace a folder that holds something else than an earlier build."""
    if pages.exists() and not (pages / ".buildinfo").is_file():
        raise FlatlibError(f"{pages} exists and is not a book; choose another output folder")


def copy_source(root: Path, source: Path) -> Path:
    """What Jupyter Book reads, copied to `source`."""
    source.mkdir()
    for name in ("_config.yml", "_toc.yml"):
        if not (root / name).is_file():
            raise FlatlibError(f"{root / name} is missing; the book is built from a complete checkout")
        shutil.copy(root / name, source)
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("_build", ".ipynb_checkpoints"))
    return source


def overlay(chapters: Path, book: Path) -> None:
    """Put the notebooks in `chapters` in the place of the committed ones of the same name."""
    found = sorted(chapters.glob("*.ipynb"))
    known = {path.name for path in (book / "claims").glob(CHAPTER)}
    drawn = [path for path in found if path.name in known]
    if not drawn:
        raise FlatlibError(f"{chapters}: no chapter in this folder; expected one of {', '.join(sorted(known))}")
    for path in drawn:
        shutil.copy(path, book / "claims" / path.name)
    for path in found:
        print(f"{'drawn from' if path in drawn else 'left out, not a chapter of the book:'} {path}", file=sys.stderr)


def check_executed(book: Path) -> None:
    """Jupyter Book draws a chapter that stopped at an error as if nothing had happened; this does not."""
    for path in sorted(book.rglob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError, TypeError):
            raise FlatlibError(f"{path.name}: not a notebook") from None
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        errors = [output for output in outputs if output["output_type"] == "error"]
        if errors:
            raise FlatlibError(f"{path.name}: stopped at {errors[0]['ename']}: {errors[0]['evalue']}; run it again")


def render(source: Path, builder: str, log: TextIO) -> Path:
    """Run Jupyter Book, with its words in `log` and one line of progress on the terminal; the folder it wrote.

    Args:
        builder: Sphinx's name for the form, such as ``html`` (pages) or ``singlehtml`` (everything on one page).
    """
    work = source.parent
    form = ["--builder", "custom", "--custom-builder", builder]
    command = [*JUPYTER_BOOK, "build", str(source), "--path-output", str(work), *form, *STRICT]
    problems = []
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **pipe) as run:
        print("Building the book ...", file=sys.stderr)
        for line in run.stdout:
            line = ANSI.sub("", line).replace(f"{source}/", "")
            log.write(line)
            if PROBLEM.search(line):
                problems.append(line.strip())
            show_progress(line)
    if run.returncode:
        first = problems[0] if problems else f"Jupyter Book ended with exit code {run.returncode}"
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise FlatlibError(f"the book was not built: {first}{more}; everything is in {log.name}")
    return work / "_build" / builder


def check_links(pages: Path) -> None:
    """A link inside the book that leads nowhere fails the build."""
    dead = broken(pages)
    if dead:
        more = f", and {len(dead) - 1} more" if len(dead) > 1 else ""
        raise FlatlibError(f"the book was not built: a link leads nowhere, {dead[0]}{more}")


def show_progress(line: str) -> None:
    """One line that is written over, where the standard error is a terminal."""
    step = PROGRESS.match(line)
    if step and sys.stderr.isatty():
        end = "\n" if step.groups() == ("writing output", "100%") else ""
        print(f"\r{step[1]} {step[2]:>4}", end=end, file=sys.stderr, flush=True)


def replace(new: Path, pages: Path) -> None:
    """`new` takes the place of `pages`; a copy that fails half-way leaves the old pages alone."""
    partial = pages.with_name("html.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(new, partial)
    if pages.exists():
        shutil.rmtree(pages)
    partial.rename(pages)
