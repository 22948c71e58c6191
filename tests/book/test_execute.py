"""Kernels on a busy machine: they are waited for, and one that does not answer is not taken for a bad file."""

import nbformat
import pytest

from flatlib.book import execute
from flatlib.book.paths import find_root
from flatlib.errors import FlatlibError

NAME = "03_sam"


def test_a_kernel_that_does_not_answer_is_one_clear_line(monkeypatch, tmp_path):
    def silent(*arguments, **options):
        raise TimeoutError("Timeout waiting for IOPub output\nof a cell")

    monkeypatch.setattr("papermill.execute_notebook", silent)
    with pytest.raises(FlatlibError, match=r"^03_sam: the notebook's kernel did not answer in time \(Timeout .*put\)$"):
        execute.run(find_root(), NAME, {}, tmp_path / "page.ipynb")


def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FlatlibError, match="cannot be written"):
        execute.run(find_root(), NAME, {}, tmp_path / "file" / "page.ipynb")


class Stop(Exception):
    """The kernel would start now."""


def test_kernels_are_waited_for(monkeypatch, tmp_path):
    waits = []

    def started(*arguments, iopub_timeout, **options):
        waits.append(iopub_timeout)
        raise Stop

    monkeypatch.setattr("papermill.execute_notebook", started)
    monkeypatch.setattr(execute, "NotebookClient", started)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "page.ipynb")
    for executed in (
        lambda: execute.run(find_root(), NAME, {}, tmp_path / "other.ipynb"),
        lambda: execute.publish(tmp_path / "page.ipynb"),
    ):
        with pytest.raises(Stop):
            executed()
    assert min(waits) >= 60
    assert len(waits) == 2
