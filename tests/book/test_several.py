"""Several chapters at a time: they do run at the same time, and one that fails does not stop the others."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from processes import processes_with

from flatlib.book.several import LastLine, run_several
from flatlib.errors import FlatlibError

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
    """A book of two chapters that wait for each other, and one that fails."""
    claims = tmp_path / "book" / "claims"
    claims.mkdir(parents=True)
    meeting = [MEET.format(folder=str(tmp_path)), GLUE]
    for name, cells in {"01_a": meeting, "02_b": meeting, "03_c": ["1 / 0"]}.items():
        parameters = nbformat.v4.new_code_cell("preset = other = ''", metadata={"tags": ["parameters"]})
        page = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)], metadata=PYTHON)
        nbformat.write(page, claims / f"{name}.ipynb")
    return tmp_path


def test_at_the_same_time(root, capfd):
    chapters = {
        "03_c": {"preset": "c"},
        "01_a": {"preset": "a", "other": "b"},
        "02_b": {"preset": "b", "other": "a"},
    }
    found = dict(run_several(root, chapters, root / "out", at_once=2))
    assert list(found) == ["03_c", "01_a", "02_b"]
    assert isinstance(found["03_c"], FlatlibError)
    assert str(found["03_c"]).startswith("03_c: a cell failed with ZeroDivisionError")
    assert (found["01_a"], found["02_b"]) == ("supported: a met b", "supported: b met a")
    assert sorted(page.name for page in (root / "out").iterdir()) == ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"]
    assert capfd.readouterr().err.count(f" -> {root / 'out'}") == 3


def test_one_at_a_time_goes_on_after_a_failure(root):
    chapters = {"03_c": {"preset": "c"}, "01_a": {"preset": "a", "other": "a"}}
    failed, met = [outcome for _, outcome in run_several(root, chapters, root / "out", at_once=1)]
    assert isinstance(failed, FlatlibError)
    assert met == "supported: a met a"


DRIVER = """\
import sys
from pathlib import Path
from flatlib.book.several import run_several
root = Path(sys.argv[1])
chapters = {"01_a": {"preset": "a", "other": "nobody"}, "02_b": {"preset": "b", "other": "nobody"}}
try:
    list(run_several(root, chapters, root / "out", at_once=2))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_ends_all_of_them_quietly(root):
    environment = os.environ | {"SEVERAL": str(root)}
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, root],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not ((root / "a").exists() and (root / "b").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert out == "interrupted\n"
    assert "Traceback" not in err
    assert not processes_with(f"SEVERAL={root}", patience=30)


def test_bars_of_several_chapters_clear_the_line(capsys):
    terminal = LastLine(sys.stdout)
    terminal.write("\r12 of 20")
    terminal.write("\r3 of 4")
    terminal.flush()
    assert capsys.readouterr().out == "\r\x1b[K12 of 20\r\x1b[K3 of 4"
