"""Notebooks that are not chapters: what holds for chapters and applies here, and their formulas' numbers."""

import re
import statistics

import nbformat
import pytest
from notebook_text import code, lines_of, prose

from flatlib.book import execute
from flatlib.book.paths import find_root, other_pages

PAGES = other_pages(find_root())
MARKUP = [r"```.*?```", r"\{[\w:]+\}`[^`]*`", r"`[^`]*`", r"\]\([^)]*\)", r"\$\$.*?\$\$", r"\$[^$]*\$"]


@pytest.fixture(params=PAGES)
def page(request):
    """Every committed page."""
    return nbformat.read(PAGES[request.param], 4)


def source(page) -> str:
    return "\n".join(cell.source for cell in code(page))


def plain(text: str) -> str:
    for pattern in MARKUP:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def test_there_are_pages():
    assert {"index", "ledger", "libraries", "overview", "primer", "toy", "your_model"} <= set(PAGES)


def test_one_title_comes_first(page):
    assert page.cells[0].source.startswith("# ")
    headings = re.findall(r"^(#+) ", re.sub(r"```.*?```", "", prose(page), flags=re.DOTALL), flags=re.MULTILINE)
    assert headings == ["#", *["##"] * (len(headings) - 1)]


def test_code_is_short_and_defines_nothing(page):
    counts = [lines_of(cell) for cell in code(page)]
    assert statistics.median(counts) <= 8
    assert max(counts) <= 20
    assert not re.search(r"^\s*(def|class) ", source(page), re.MULTILINE)


def test_there_are_six_words_of_prose_for_every_line_of_code_that_is_seen(page):
    unseen = {"remove-cell", "remove-input", "hide-input"}
    seen = [cell for cell in code(page) if not unseen & set(cell.metadata.get("tags", []))]
    assert len(re.findall(r"[A-Za-z]{2,}", plain(prose(page)))) >= 6 * sum(map(lines_of, seen))


def test_every_number_in_prose_is_glued_or_stands_in_the_code(page):
    allowed = set(re.findall(r"\d+(?:\.\d+)?", source(page)))
    said = re.sub(r"(?i)\b(equation|theorem|section) \d+", " ", plain(prose(page)))
    assert set(re.findall(r"(?<![\w-])\d+(?:\.\d+)?", said)) <= allowed


def test_every_figure_has_a_name_a_caption_and_an_alternative_text(page):
    drawn = [cell for cell in code(page) if "plt.show()" in cell.source]
    assert drawn
    for cell in drawn:
        about = cell.metadata["mystnb"]
        assert about["figure"]["name"].startswith("fig-")
        assert len(about["figure"]["caption"].split()) >= 8
        assert len(about["image"]["alt"].split()) >= 6
        assert f"{{numref}}`{about['figure']['name']}`" in prose(page), "a figure that no sentence leads to"
        assert any("image/svg+xml" in output.get("data", {}) for output in cell.outputs)


def test_every_glued_name_comes_from_the_page_itself(page):
    names = re.findall(r"\{glue:text\}`([^`]+)`", prose(page))
    assert names
    for name in names:
        assert re.search(rf"\b{name}=", source(page)), name
    glued = [cell for cell in code(page) if "glue_texts(" in cell.source]
    assert all("nbval-check-output" in cell.metadata.get("tags", []) for cell in glued)


def test_nothing_of_a_run_is_left_in_a_committed_page(page):
    assert set(page.metadata) == {"kernelspec", "language_info"}
    for cell in page.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)


def test_a_committed_page_is_executed_from_top_to_bottom(page):
    assert [cell.execution_count for cell in code(page)] == list(range(1, len(code(page)) + 1))
    for output in (output for cell in code(page) for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        assert str(find_root()) not in str(output)


def test_publishing_executes_a_page_in_place_and_keeps_nothing_of_the_run(tmp_path):
    path = tmp_path / "page.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# Page"),
        nbformat.v4.new_code_cell("import sys\nsys.stderr.write('x')\n6 * 7"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {}}), path)
    written = execute.publish(path)
    assert nbformat.read(path, 4) == written
    assert set(written.metadata) == {"kernelspec", "language_info"}
    (output,) = written.cells[1].outputs
    assert output["data"]["text/plain"] == "42"
