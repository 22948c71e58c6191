"""Notebooks of chapters, executed: with papermill at any parameters, or in place to publish one again."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
import psutil
from jupyter_core.utils import ensure_event_loop
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

from flatlib.book.chapter import Chapter
from flatlib.book.headless import train
from flatlib.book.paths import find_root, notebook
from flatlib.book.resolve import resolve_file, stored_texts
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.lock import locked

KERNEL = "python3"
QUIET = ["--log-level=ERROR"]  # a kernel warns at every start that it listens on this machine's loopback address
OUTPUT_TIMEOUT = 300  # seconds to wait for a cell's last output, on a busy machine; the libraries wait 4
CLEAR = "\x1b[K"  # a terminal erases the rest of the line
# A kernel's debugger complains about frozen modules on stderr, which is where the progress bar goes.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


class OverwritingStream:
    """A terminal on which progress bars of parallel chapters take turns: each clears the last one's line."""

    def __init__(self, terminal: TextIO):
        self.terminal, self.flush = terminal, terminal.flush

    def write(self, text: str) -> None:
        """Write a piece of text; a bar begins its line again with a carriage return."""
        self.terminal.write(text.replace("\r", f"\r{CLEAR}"))


def run_chapters(
    root: Path, chapters: dict[str, dict[str, Any]], output: Path, at_once: int
) -> Iterator[tuple[str, str | FlatlibError]]:
    """Execute chapters, each in a kernel of its own, and yield each one's verdict line or the error that ended it.

    A chapter spends seconds starting a kernel and drawing, in which it trains nothing: with two at a time, none waits.

    Args:
        root: The checkout.
        chapters: The name and the checked parameters of each, in the order in which they are yielded.
        output: Folder for the executed notebooks.
        at_once: Number of chapters in progress at the same time.
    """

    def execute(name: str, values: dict[str, Any]) -> str | FlatlibError:
        page = output / f"{name}.ipynb"
        print(f"{name} at {values['preset']} -> {page}", file=sys.stderr, flush=True)
        try:
            return run(root, name, values, page)
        except FlatlibError as error:
            return error
        finally:
            ensure_event_loop().close()  # of this thread

    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(execute, name, values) for name, values in chapters.items()]
        try:
            for name, future in zip(chapters, futures, strict=True):
                yield name, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while wait(futures, timeout=0.2).not_done:  # a thread ends with its kernel, whatever it was about to start
                for process in psutil.Process().children():
                    process.kill()
            raise


def run(root: Path, name: str, values: dict[str, Any], output: Path) -> str:
    """Execute a chapter with papermill into `output`, resolve it, and return its verdict line.

    The notebook's stderr, with its progress bar, goes to this process's stderr while it runs.

    Raises:
        FlatlibError: A cell failed, the kernel was silent for too long, or `output` cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        executed = papermill.execute_notebook(
            str(notebook(root, name)),
            str(output),
            parameters=values,
            kernel_name=KERNEL,
            cwd=str(Path.cwd()),
            progress_bar=False,
            stderr_file=OverwritingStream(sys.stderr) if sys.stderr.isatty() else sys.stderr,
            extra_arguments=QUIET,
            iopub_timeout=OUTPUT_TIMEOUT,
        )
    except PapermillExecutionError as error:
        raise failure(name, error.ename, error.evalue, output) from None
    except TimeoutError as error:  # an OSError as well, of a kernel and not of a file
        reason = str(error).partition("\n")[0]
        raise FlatlibError(f"{name}: the notebook's kernel did not reply in time ({reason})") from None
    except OSError as error:
        raise FlatlibError(f"{output}: cannot be written ({error.strerror})") from None
    resolve_file(output)
    return verdict_line(executed)


def verdict_line(executed: nbformat.NotebookNode) -> str:
    """Return the verdict of an executed chapter and the sentence that explains it."""
    return f"{glued(executed, 'verdict')}: {glued(executed, 'verdict_sentence')}"


def failure(name: str, kind: str, message: str, where: Path) -> FlatlibError:
    """Return a one-line error for a failed cell: a FlatlibError's message as it is, others with their place."""
    if kind == FlatlibError.__name__:
        return FlatlibError(f"{name}: {message}")
    reason = message.strip().partition("\n")[0]
    return FlatlibError(f"{name}: a cell failed with {kind}: {reason} (its traceback is in {where})")


def glued(executed: nbformat.NotebookNode, key: str) -> str:
    """Return the text that a notebook glued under `key`."""
    texts = stored_texts(executed)
    if key not in texts:
        raise FlatlibError(f"the notebook glues no {key!r}")
    return texts[key]


def refresh(chapter: Chapter) -> str:
    """Complete the committed record of a preset, drop obsolete runs, publish the page, and return its verdict line.

    Runs are in the record as they finish: an interrupted refresh continues where it stopped.
    """
    chapter.record = find_root() / "book" / "records" / chapter.claim.chapter / f"{chapter.parameters.preset}.jsonl"
    for error in train([chapter], chapter.execution.time_limit):
        raise error
    with locked(chapter.record):
        lines = records.read(chapter.record)
        kept = [run_id for run_id in dict.fromkeys(run.run_id for run in chapter.requests()) if run_id in lines]
        if kept != list(lines):
            records.write(chapter.record, [lines[run_id] for run_id in kept])
    return verdict_line(publish(chapter.source))


def publish(path: Path) -> nbformat.NotebookNode:
    """Execute a committed notebook in place, without traces of this run, and return it; an error changes nothing."""
    page = nbformat.read(path, as_version=4)
    options: dict[str, Any] = {"record_timing": False, "extra_arguments": QUIET, "iopub_timeout": OUTPUT_TIMEOUT}
    options |= {"kernel_name": KERNEL, "resources": {"metadata": {"path": path.parent}}}
    try:
        NotebookClient(page, **options).execute()
    except CellExecutionError as error:
        raise failure(path.stem, error.ename, error.evalue, path) from None
    page.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(page, path)
    return page
