"""Executed notebooks that stand on their own: no markup of the book is left, and its source can be restored."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from flatlib import cli
from flatlib.book import resolve as module
from flatlib.book.citations import citer
from flatlib.book.page_links import PageLinks
from flatlib.book.paths import find_root, notebooks, other_pages, read_notebook
from flatlib.book.plain_markdown import Context, markup_left, plain
from flatlib.book.resolve import resolve, resolve_file, restore, stored_texts
from flatlib.errors import FlatlibError

ROOT = find_root()
PAGES = notebooks(ROOT) | other_pages(ROOT)
KAUR = "[2022](https://arxiv.org/abs/2206.10654)"
CONTEXT = Context(
    {"n": "12", "verdict": "supported", "slope": "-0.9 [-1.1, -0.8]"},
    {"fig-a": 1, "fig-b": 2},
    citer(ROOT / "book" / "references.bib"),
    {"#verdicts": ("m.md", "How"), "other.md": ("o.md", "Other"), "#fig-there": ("t.ipynb", "There")}.get,
)
CARD = "> **Claim.** It is.\n>\n> Source"
FORMS = {
    "Of {glue:text}`n` runs": "Of 12 runs",
    "[{glue:text}`verdict`]{.verdict} [small]{.scale}": "**supported** (small)",
    "[{glue:text}`slope`]{.verdict}": "**-0.9 [-1.1, -0.8]**",
    "{cite:t}`kaur2022` and {cite:p}`kaur2022`": f"Kaur et al. ({KAUR}) and (Kaur et al., {KAUR})",
    "{numref}`fig-b`, {numref}`Fig. %s <fig-a>`": "[Figure 2](#fig-b), [Figure 1](#fig-a)",
    "{numref}`fig-there`": "a figure of [There](t.ipynb)",
    "[rules](#verdicts), [](other.md), [gone](#gone), [far](https://a.b)": "[rules](m.md), [Other](o.md), gone, "
    "[far](https://a.b)",
    "(here)=\n## Title\n\n[up](#here)": '<a id="here"></a>\n\n## Title\n\n[up](#here)',
    "{math}`x^2` {abbr}`text <of it>`": "$x^2$ text",
    "`{glue:text}` and $[a]{.b}$": "`{glue:text}` and $[a]{.b}$",
    "```\n{glue:text}`n`\n```": "```\n{glue:text}`n`\n```",
    "::::{card} Claim\n:class-card: a\n\nIt is.\n\n:::{card-footer}\nSource\n:::\n::::": CARD,
    "::::{grid} 1 2\n:gutter: 2\n\n:::{grid-item}\nA\n:::\n\n:::{grid-item}\nB\n:::\n::::": "A\n\nB",
    "```{note}\nMind $x$.\n```": "> **Note.** Mind $x$.",
    "```{glue:figure} a\n:name: fig-a\n\nWhat it shows.\n```": '<a id="fig-a"></a>\n\n**Figure 1.** What it shows.',
}


@pytest.mark.parametrize(("source", "expected"), FORMS.items())
def test_markup_becomes_plain_markdown(source, expected):
    assert plain(source, CONTEXT) == expected
    assert markup_left(expected) == []


@pytest.mark.parametrize("source", [source for source in FORMS if not source.startswith(("`{", "```\n", "[rules"))])
def test_markup_is_found(source):
    assert markup_left(source)


@pytest.mark.parametrize("source", ["{glue:text}`gone`", "{cite:t}`nobody2000`"])
def test_what_is_not_there_is_an_error(source):
    with pytest.raises(FlatlibError, match=r"gone|nobody2000"):
        plain(source, CONTEXT)


def shown_markdown(notebook) -> list[str]:
    """Return all Markdown of a notebook: its text, and what its cells display."""
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return texts + ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]


@pytest.mark.parametrize("name", PAGES)
def test_published_pages_are_resolved_and_restored(name):
    page = read_notebook(PAGES[name])
    resolved = resolve(page, ROOT, PageLinks(ROOT, PAGES[name], PAGES[name].parent))
    assert [left for text in shown_markdown(resolved) for left in markup_left(text)] == []
    assert not [text for text in shown_markdown(resolved) if "](#" in text and '<a id="' not in str(resolved)]
    nbformat.validate(nbformat.from_dict(resolved))
    assert restore(resolved) == page
    assert resolve(resolved, ROOT, PageLinks(ROOT, PAGES[name], PAGES[name].parent)) == resolved


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Return an executed notebook of one value, with progress on stderr, in a checkout of its own."""
    (tmp_path / "book" / "claims").mkdir(parents=True)
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "book" / "references.bib").touch()
    monkeypatch.chdir(tmp_path)
    about = {"scrapbook": {"name": "n", "mime_prefix": "application/papermill.record/"}}
    value = new_output("display_data", {module.RECORD: "'12'", "text/plain": "n = 12"}, metadata=about)
    bars = [new_output("stream", name="stderr", text=text) for text in ("\r1 of 2", "\r2 of 2\n")]
    cell = new_code_cell("x", execution_count=1, outputs=[*bars, value], metadata={"tags": ["remove-input"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A\n\n{glue:text}`n` runs."), cell]), tmp_path / "a.ipynb")
    return tmp_path / "a.ipynb"


def test_a_notebook_is_resolved_in_place(executed, capsys):
    assert cli.main(["resolve", "a.ipynb"]) == 0
    assert capsys.readouterr().out == f"open {executed}\n"
    text, _, cell = read_notebook(executed)["cells"]
    assert text["source"] == "# A\n\n12 runs."
    assert [output["text"] for output in cell["outputs"]] == ["2 of 2\n"], "one line of progress, no value"
    assert cell["metadata"]["jupyter"] == {"source_hidden": True}


def test_another_run_gives_other_numbers(executed):
    """A front end runs the cells of a resolved notebook again and saves it; then it is resolved again."""
    resolve_file(executed)
    page = nbformat.read(executed, 4)
    about = {"scrapbook": {"name": "n", "mime_prefix": "application/papermill.record/"}}
    page.cells[2].outputs = [new_output("display_data", {module.RECORD: "'13'"}, metadata=about)]
    page.cells[0].source += " Edited."
    nbformat.write(page, executed)
    assert stored_texts(restore(read_notebook(executed))) == {"n": "13"}
    page.cells[0].source = "# A\n\n12 runs."
    nbformat.write(page, executed)
    resolve_file(executed)
    assert read_notebook(executed)["cells"][0]["source"] == "# A\n\n13 runs."


def test_an_edited_text_stays(executed):
    resolve_file(executed)
    page = nbformat.read(executed, 4)
    page.cells[0].source = "# My title"
    nbformat.write(page, executed)
    resolve_file(executed, executed.with_name("b.ipynb"))
    assert read_notebook(executed.with_name("b.ipynb"))["cells"][0]["source"] == ["# My title"]


def test_sources_and_unfinished_notebooks_are_refused(executed):
    with pytest.raises(FlatlibError, match="--output"):
        resolve_file(executed, executed.parent / "book" / "claims" / "a.ipynb")
    page = read_notebook(executed)
    page["cells"][1]["outputs"] = []
    executed.write_text(json.dumps(page))
    with pytest.raises(FlatlibError, match="'n', which its text quotes; run all cells"):
        resolve_file(executed)
    executed.write_text("no notebook")
    with pytest.raises(FlatlibError, match="not a notebook"):
        resolve_file(executed)
