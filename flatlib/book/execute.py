"""Running a chapter's notebook: with papermill at any parameters, or in place to publish it again."""

import ast
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

from flatlib.book.chapter import Chapter
from flatlib.book.paths import find_root, notebook
from flatlib.book.train import train
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.lock import locked_if_there

KERNEL = "python3"
QUIET = ["--log-level=ERROR"]  # a kernel warns at every start that it listens on this machine's loopback address
PATIENCE = 300  # seconds a kernel on a busy machine may take to pass on a cell's last output; the libraries wait 4
# A kernel's debugger complains about frozen modules on stderr, which is where the progress bar goes.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def run(root: Path, name: str, values: dict[str, Any], output: Path) -> str:
    """Execute a chapter with papermill into `output`; its verdict line.

    What the notebook writes to stderr (the progress bar) goes to this process's stderr while it runs.
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
            stderr_file=sys.stderr,
            extra_arguments=QUIET,
            iopub_timeout=PATIENCE,
        )
    except PapermillExecutionError as error:
        raise failure(name, error.ename, error.evalue, output) from None
    except TimeoutError as error:  # an OSError as well, of a kernel and not of a file
        raise FlatlibError(f"{name}: the notebook's kernel did not answer in time ({first_line(str(error))})") from None
    except OSError as error:
        raise FlatlibError(f"{output}: cannot be written ({error.strerror})") from None
    return verdict_line(executed)


def verdict_line(executed: nbformat.NotebookNode) -> str:
    """The verdict of an executed chapter, and what stands behind it."""
    return f"{glued(executed, 'verdict')}: {glued(executed, 'verdict_sentence')}"


def failure(name: str, kind: str, message: str, where: Path) -> FlatlibError:
    """One line for a cell that failed: our own messages as they are, anything else with its place."""
    if kind == FlatlibError.__name__:
        return FlatlibError(f"{name}: {message}")
    return FlatlibError(f"{name}: a cell failed with {kind}: {first_line(message)} (its traceback is in {where})")


def first_line(message: str) -> str:
    """What an error says, without the rest."""
    return (message.strip().splitlines() or [""])[0]


def glued(executed: nbformat.NotebookNode, key: str) -> str:
    """The text a notebook glued under `key`."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == key:
                data = output["data"]
                return ast.literal_eval(data.get("text/plain") or data["application/papermill.record/text/plain"])
    raise FlatlibError(f"the notebook glues no {key!r}")


def refresh(chapter: Chapter) -> str:
    """Train what the committed record of a preset lacks, drop what it no longer needs, and publish the page again.

    Returns the published page's verdict line. Finished runs are in the record as they finish: an interrupted
    refresh goes on where it stopped.
    """
    chapter.record = find_root() / "book" / "records" / chapter.claim.chapter / f"{chapter.parameters.preset}.jsonl"
    for error in train([chapter], chapter.execution.time_limit):
        raise error
    with locked_if_there(chapter.record):
        lines = records.read(chapter.record)
        kept = [run_id for run_id in dict.fromkeys(run.run_id for run in chapter.requests()) if run_id in lines]
        if kept != list(lines):
            records.write(chapter.record, [lines[run_id] for run_id in kept])
    return verdict_line(publish(chapter.source))


def publish(path: Path) -> nbformat.NotebookNode:
    """Execute a committed notebook in place, as it is, and keep only what belongs in a repository; what was written."""
    page = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": path.parent}}
    options = {"record_timing": False, "extra_arguments": QUIET, "iopub_timeout": PATIENCE}
    client = NotebookClient(page, kernel_name=KERNEL, resources=resources, **options)
    try:
        client.execute()
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
