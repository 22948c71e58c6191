"""Chapters executed: side by side, interrupted, on a busy machine, and published in place."""

import io
import os
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import nbformat
import pytest
from nbclient import NotebookClient

from flatlib.book import execute
from flatlib.book.paths import find_root, notebook
from flatlib.errors import FlatlibError
from processes import processes_with

PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
MEET = """\
import pathlib, time
pathlib.Path({folder!r}, preset).touch()
while not pathlib.Path({folder!r}, other).exists():
    time.sleep(0.05)
"""
GLUE = """\
from myst_nb import glue
glue("verdict", "supported", display=False)
glue("verdict_sentence", f"{preset} met {other}", display=False)
"""


@pytest.fixture
def root(tmp_path):
    """Return a book of two chapters that wait for each other, and one that fails."""
    claims = tmp_path / "book" / "claims"
    claims.mkdir(parents=True)
    meeting = [MEET.format(folder=str(tmp_path)), GLUE]
    for name, cells in {"01_a": meeting, "02_b": meeting, "03_c": ["1 / 0"]}.items():
        parameters = nbformat.v4.new_code_cell("preset = other = ''", metadata={"tags": ["parameters"]})
        page = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)], metadata=PYTHON)
        nbformat.write(page, claims / f"{name}.ipynb")
    return tmp_path


def test_chapters_run_side_by_side(root):
    meeting = {"01_a": {"preset": "a", "other": "b"}, "02_b": {"preset": "b", "other": "a"}}
    found = dict(execute.run_chapters(root, {"03_c": {"preset": "c"}} | meeting, root / "out", at_once=2))
    failed = found.pop("03_c")
    assert isinstance(failed, FlatlibError)
    assert str(failed).startswith("03_c: a cell failed with ZeroDivisionError")
    assert found == {"01_a": "supported: a met b", "02_b": "supported: b met a"}
    assert sorted(page.name for page in (root / "out").iterdir()) == ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"]


DRIVER = """\
import signal, sys
from pathlib import Path
from flatlib.book.execute import run_chapters
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's child ignores it
root = Path(sys.argv[1])
chapters = {"01_a": {"preset": "a", "other": "nobody"}, "02_b": {"preset": "b", "other": "nobody"}}
try:
    list(run_chapters(root, chapters, root / "out", at_once=2))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_ends_all_kernels(root):
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, root]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen(command, env=os.environ | {"CHAPTERS": str(root)}, start_new_session=True, **pipes)
    try:
        deadline = time.monotonic() + 120
        while not ((root / "a").exists() and (root / "b").exists()) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=60)
        left = processes_with(f"CHAPTERS={root}", patience=30)
    finally:
        for process in processes_with(f"CHAPTERS={root}", patience=0):
            os.kill(int(process), signal.SIGKILL)
    assert (out, left) == ("interrupted\n", [])
    assert "Traceback" not in err


def test_progress_bars_clear_the_line():
    terminal = io.StringIO()
    execute.OverwritingStream(terminal).write("\r12 of 20\r3 of 4")
    assert terminal.getvalue() == "\r\x1b[K12 of 20\r\x1b[K3 of 4"


def test_a_silent_kernel_is_one_line(root, monkeypatch):
    silent = TimeoutError("Timeout waiting for IOPub output\nof a cell")
    monkeypatch.setattr("papermill.execute_notebook", Mock(side_effect=silent))
    with pytest.raises(FlatlibError, match=r"^03_c: the notebook's kernel .* \(Timeout .*put\)$"):
        execute.run(root, "03_c", {}, root / "out" / "page.ipynb")


def test_an_unwritable_page_is_one_line(root):
    (root / "file").touch()
    with pytest.raises(FlatlibError, match="cannot be written"):
        execute.run(root, "03_c", {}, root / "file" / "page.ipynb")


def test_all_cells_run_twice_in_one_kernel():
    """A reader's copy, with a parameter and a variable of its own, as papermill leaves it."""
    page = nbformat.read(notebook(find_root(), "04_dropout"), 4)
    place = next(i for i, cell in enumerate(page.cells) if "parameters" in cell.metadata.get("tags", []))
    page.cells[place].source += "\nmy_label: str = 'a'"
    injected = "# Parameters\nmy_label = 'b'\nmax_epochs = 600.0\ntest_size = 3000"
    page.cells.insert(place + 1, nbformat.v4.new_code_cell("configs, measure, test_size = 1, 2, 3"))
    page.cells.insert(place + 2, nbformat.v4.new_code_cell(injected))
    page.cells *= 2
    NotebookClient(page, kernel_name="python3", resources={"metadata": {"path": find_root()}}).execute()


def test_publishing_keeps_only_outputs(tmp_path):
    path = tmp_path / "page.ipynb"
    cells = [nbformat.v4.new_code_cell("import sys\nsys.stderr.write('x')\n6 * 7")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {}}), path)
    written = execute.publish(path)
    assert nbformat.read(path, 4) == written
    assert set(written.metadata) == {"kernelspec", "language_info"}
    (output,) = written.cells[0].outputs
    assert output["data"]["text/plain"] == "42"
