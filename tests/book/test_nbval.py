"""Notebooks under nbval: what is strict, and that a changed number or figure does not pass."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from flatlib.book.paths import find_root

ROOT = find_root()
NAME = "04_dropout"
PAGE = f"book/claims/{NAME}.ipynb"
RECORD = f"book/records/{NAME}/small.jsonl"
DOUBLED = """
once = figures.mean_curves
figures.mean_curves = lambda runs, x, y, ax, **more: once(runs.assign(**{y: 2 * runs[y]}), x, y, ax, **more)
"""


@pytest.fixture
def checkout(tmp_path):
    """Return the part of the checkout that one chapter needs."""
    for name in ("book/conftest.py", "pyproject.toml", "_toc.yml", PAGE, RECORD, f"book/presets/small/{NAME}.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def nbval(checkout, page, *options) -> str:
    """Return the last line of pytest, with the options of `pyproject.toml`."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *options, page]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def test_a_chapter_passes_strictly(checkout):
    assert " passed" in nbval(checkout, PAGE, "--nbval")


def double(checkout, measure, number=0):
    lines = (checkout / RECORD).read_text().splitlines()
    line = json.loads(lines[number])
    line["measures"][measure] *= 2
    lines[number] = json.dumps(line)
    (checkout / RECORD).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("measure", "number"), [("lambda_max", 0), ("weight_norm", 7)])
def test_a_doubled_value_fails(checkout, measure, number):
    double(checkout, measure, number)
    assert " failed" in nbval(checkout, PAGE)


def test_a_changed_figure_function_fails(checkout):
    page = nbformat.read(checkout / PAGE, 4)
    next(cell for cell in page.cells if "use_style()" in cell.source).source += DOUBLED
    nbformat.write(page, checkout / PAGE)
    assert " failed" in nbval(checkout, PAGE)


def figure_text(value: float) -> str:
    """Return the text of a figure with one number."""
    return f"Figure of 1 axes\naxes 1: x a, y b\n  line, 1 points\n    x: 1\n    y: {value}"


CELLS = {  # stored text, metadata, and whether the cell passes --nbval-lax and --nbval
    "method": [
        ("wrong", {}, "passed", "failed"),
        ("wrong", {"tags": ["nbval-check-output"]}, "failed", "failed"),
        ("wrong", {"mystnb": {"figure": {}}}, "failed", "failed"),
        ("wrong", {"mystnb": {"figure": {}}, "tags": ["nbval-ignore-output"]}, "passed", "passed"),
        (figure_text(1.002), {}, "passed", "passed"),  # on a page that trains
        (figure_text(1.02), {}, "passed", "failed"),
    ],
    "claims": [(figure_text(1.0), {}, "passed", "passed"), (figure_text(1.002), {}, "passed", "failed")],
}


@pytest.mark.parametrize("folder", CELLS)
def test_what_is_compared(checkout, folder):
    """A drawing is not compared, its data are."""
    shown = {"text/plain": figure_text(1.0), "image/svg+xml": "<svg>one</svg>"}
    display = f"from IPython.display import display\ndisplay({shown}, raw=True)"
    outputs = [new_output("display_data", {"text/plain": cell[0], "image/svg+xml": "<svg/>"}) for cell in CELLS[folder]]
    cells = [
        new_code_cell(display, outputs=[output], metadata=cell[1], execution_count=1)
        for output, cell in zip(outputs, CELLS[folder], strict=True)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    (checkout / "book" / folder).mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=kernel), checkout / "book" / folder / "page.ipynb")
    for column, options in ((2, []), (3, ["--nbval"])):
        count = nbval(checkout, f"book/{folder}/page.ipynb", *options)
        for word in ("passed", "failed"):
            expected = sum(cell[column] == word for cell in CELLS[folder])
            assert (f"{expected} {word}" in count) == bool(expected), count
