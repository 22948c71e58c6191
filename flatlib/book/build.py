"""The book as web pages: Jupyter Book on a copy of its sources, so that no build changes the checkout."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import yaml

from flatlib.book.html import dead_links
from flatlib.book.own_runs import add_runs
from flatlib.book.paths import CHAPTER, find_root, read_notebook
from flatlib.book.resolve import restore, write
from flatlib.errors import FlatlibError

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]  # the package has no __main__
STRICT = ["--all", "-W", "-n", "--keep-going"]  # build every page, report every warning, fail if there was one
PROGRESS = re.compile(r"(reading sources|writing output)\.\.\. \[ *(\d+%)\]")  # of Sphinx
PROBLEM = re.compile(r"(WARNING|ERROR|Exception|Error): ")
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
REPOSITORY = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


def build(
    chapters: Path | None = None,
    output: Path | None = None,
    address: dict[str, str] | None = None,
    runs: Path | None = None,
) -> Path:
    """Render the book and return its first page.

    Args:
        chapters: An executed chapter, or a folder of them such as the output of ``flatlib run``, to show in the place
            of the committed chapters they were made from.
        output: Folder (default ``_build`` in the checkout) of ``html``, which is replaced as a whole if the build
            succeeds, and of ``book.log``, the messages of Jupyter Book.
        address: Arguments of `add_address`; without them no page links to a repository or to an address of its own.
        runs: Folder with a folder of executed chapters for each preset, which are shown beside the committed ones and
            listed on the page ``book/runs/PRESET.html``.

    Raises:
        FlatlibError: No checkout, no chapter to show, a chapter that holds an error, a warning of Jupyter Book, a dead
            link, or a folder that cannot be written.
    """
    output = Path(output).absolute() if output is not None else find_root() / "_build"
    pages = output / "html"
    if pages.exists() and not (pages / ".buildinfo").is_file():
        raise FlatlibError(f"{pages} exists and is not a book; choose another output folder")
    with copied_sources(chapters, output / "book.log") as (source, log):
        if runs is not None:
            add_runs(source, runs)
        if address is not None:
            add_address(source / "_config.yml", **address)
        rendered = render(source, "html", log)
        if dead := dead_links(rendered):
            raise FlatlibError(f"the book was not built: a link leads nowhere, {first_of(dead)}")
        partial = output / "html.partial"  # a copy that fails half-way keeps the old pages
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(rendered, partial)
        shutil.rmtree(pages, ignore_errors=True)
        partial.rename(pages)
    return pages / "index.html"


def add_address(config: Path, repository: str, branch: str = "main", url: str = "", notebooks: str = "") -> None:
    """Write the address of a book into its `_config.yml`: launch buttons, canonical links, a sitemap and cards follow.

    Args:
        config: The file to change, of a copy of the book.
        repository: Source of the book, ``https://github.com/OWNER/NAME``. Binder opens a chapter from there.
        branch: Branch of the repository.
        url: Address of the pages; by default the one that GitHub Pages gives to the repository.
        notebooks: Branch that holds the ``_sources`` of this build, if there is one. Colab opens a chapter from there:
            each has a first cell that installs flatlib.

    Raises:
        FlatlibError: A malformed address.
    """
    found = REPOSITORY.fullmatch(repository)
    if found is None:
        raise FlatlibError(f"--repository: expected https://github.com/OWNER/NAME, got {repository!r}")
    if url and not url.startswith(("https://", "http://")):
        raise FlatlibError(f"--url: expected an address such as https://example.org/book/, got {url!r}")
    owner, name = found.groups()
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["repository"] = {"url": f"https://github.com/{owner}/{name}", "branch": branch}
    settings["html"]["baseurl"] = (url or f"https://{owner.lower()}.github.io/{name}").rstrip("/") + "/"
    settings["sphinx"]["config"]["colab_branch"] = notebooks
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")


@contextmanager
def copied_sources(chapters: Path | None, report: Path) -> Iterator[tuple[Path, TextIO]]:
    """Yield a temporary copy of the book's sources with `chapters` in place, and the open `report`."""
    root = find_root()
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="flatlib-book-") as work, report.open("w") as log:
            source = Path(work) / "source"
            hidden = shutil.ignore_patterns("_build", ".ipynb_checkpoints", "__pycache__")
            shutil.copytree(root / "book", source / "book", ignore=hidden)
            for name in ("_config.yml", "_toc.yml"):
                shutil.copy(root / name, source)
            if chapters is not None:
                overlay(Path(chapters), source / "book")
            check_executed(source / "book")
            yield source, log
    except OSError as error:
        raise FlatlibError(f"{error.filename or report}: cannot be read or written ({error.strerror})") from None


def overlay(chapters: Path, book: Path) -> None:
    """Put executed notebooks in the place of the committed chapters they were made from.

    A notebook of another name, as papermill writes it, is that of its ``papermill.input_path``.
    """
    known = [path.name for path in sorted((book / "claims").glob(CHAPTER))]
    shown = 0
    for path in [chapters] if chapters.is_file() else sorted(chapters.glob("*.ipynb")):
        about = read_notebook(path).get("metadata", {}).get("papermill", {})
        names = [path.name, Path(about.get("input_path") or "").name]
        if name := next((name for name in names if name in known), None):
            write(book / "claims" / name, restore(read_notebook(path)))
            shown += 1
        print(f"{'shown' if name else 'not a chapter of the book, not shown'}: {path}", file=sys.stderr)
    if not shown:
        raise FlatlibError(f"{chapters}: no chapter in this folder; expected one of {', '.join(known)}")


def check_executed(book: Path) -> None:
    """Refuse a notebook that stopped at an error, which Jupyter Book renders without a warning."""
    for path in sorted(book.rglob("*.ipynb")):
        for output in (output for cell in read_notebook(path)["cells"] for output in cell.get("outputs", [])):
            if output["output_type"] == "error":
                raise FlatlibError(f"{path.name}: stopped at {output['ename']}: {output['evalue']}; run it again")


def render(source: Path, builder: str, log: TextIO) -> Path:
    """Run Jupyter Book on a copy of the sources and return the folder it wrote; its messages go to `log`.

    The Sphinx builder is ``html`` (pages) or ``singlehtml`` (everything on one page). A terminal shows the progress.
    """
    if find_spec("jupyter_book") is None or find_spec("jupyter_book.cli") is None:
        raise FlatlibError("the book needs Jupyter Book 1.x: pip install 'jupyter-book<2'")
    form = ["--builder", "custom", "--custom-builder", builder]
    command = [*JUPYTER_BOOK, "build", str(source), "--path-output", str(source.parent), *form, *STRICT]
    problems = []
    print("Building the book ...", file=sys.stderr)
    both = subprocess.STDOUT
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=both, text=True, errors="replace") as run:
        for line in run.stdout or ():
            line = ANSI.sub("", line).replace(f"{source}/", "")
            log.write(line)
            if PROBLEM.search(line):
                problems.append(line.strip())
            if (step := PROGRESS.match(line)) and sys.stderr.isatty():
                print(f"\r{step[1]} {step[2]:>4}", file=sys.stderr, end="\n" * (step[2] == "100%"), flush=True)
    if run.returncode:
        problem = first_of(problems or [f"Jupyter Book ended with exit code {run.returncode}"])
        raise FlatlibError(f"the book was not built: {problem}; everything is in {log.name}")
    return source.parent / "_build" / builder


def first_of(problems: list[str]) -> str:
    """Return the first problem, and how many more there are."""
    return problems[0] + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")
