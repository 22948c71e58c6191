"""The build: pages, rerun chapters in place of committed ones, errors, finished HTML."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from browser import PAGES, ROOT
from flatlib.book import build as builder
from flatlib.book import html
from flatlib.book.build import build
from flatlib.book.display import GLUE_PREFIX as GLUE
from flatlib.book.page_links import PageLinks
from flatlib.book.paths import notebooks, other_pages, read_notebook
from flatlib.book.resolve import RECORD, resolve, resolve_file, write
from flatlib.errors import FlatlibError

CONTENTS = "format: jb-book\nroot: book/index\n"


def test_every_page_is_built(pages):
    assert {path.relative_to(pages).as_posix() for path in (pages / "book").rglob("*.html")} == set(PAGES)
    assert [page for page in PAGES if str(ROOT) in (pages / page).read_text(encoding="utf-8")] == []


def test_text_in_figures_is_text(pages):
    figures = [path.read_text(encoding="utf-8") for path in (pages / "_images").glob("*.svg")]
    assert len(figures) > 40
    assert [text[:300] for text in figures if "<text" not in text] == []


@pytest.mark.parametrize("path", [*notebooks(ROOT).values(), *other_pages(ROOT).values()], ids=lambda path: path.stem)
def test_committed_notebooks_can_be_downloaded(pages, path):
    place = path.relative_to(ROOT)
    assert f'_sources/{place}"' in (pages / place.with_suffix(".html")).read_text(encoding="utf-8")
    offered = read_notebook(pages / "_sources" / place)
    assert offered == resolve(read_notebook(path), ROOT, PageLinks(ROOT, path, path.parent))
    linked = re.findall(r"\]\((?!http|#)([^)]+)\)", str(offered["cells"]))
    assert not [link for link in linked if not (pages / "_sources" / place.parent / link).is_file()]


def test_rerun_chapters_replace_the_committed_ones(tmp_path):
    book, rerun = tmp_path / "source", tmp_path / "rerun"
    (book / "claims").mkdir(parents=True)
    rerun.mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb", "03_c.ipynb"):
        (book / "claims" / name).write_text("committed")
    (rerun / "01_a.ipynb").write_text('{"cells": []}')
    about = {"papermill": {"input_path": "book/claims/03_c.ipynb"}}
    (rerun / "mine.ipynb").write_text(json.dumps({"cells": [], "metadata": about}))
    (rerun / "notes.ipynb").write_text('{"cells": []}')
    builder.overlay(rerun, book)
    kept = [path.name for path in sorted((book / "claims").iterdir()) if path.read_text() == "committed"]
    assert kept == ["02_b.ipynb"]
    assert read_notebook(book / "claims" / "03_c.ipynb") == read_notebook(rerun / "mine.ipynb")
    builder.overlay(rerun / "01_a.ipynb", book)  # one file


def test_style_sheets_have_what_pages_use(pages):
    css = (pages / "_static" / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    assert ".fa-moon" in css
    assert ".fa-ghost" not in css
    assert "fa-solid-900.woff)" in css
    assert 1000 < (pages / "_static" / "vendor/fontawesome/webfonts/fa-solid-900.woff").stat().st_size < 10_000
    assert not [*pages.rglob("*.map"), *pages.rglob("fontawesome.js")]


def test_unusable_chapters_are_an_error(tmp_path):
    with pytest.raises(FlatlibError, match=r"no chapter in this folder.*01_lr_batch"):
        build(chapters=tmp_path, output=tmp_path / "out")
    error = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []}
    cell = {"cell_type": "code", "source": "1 / 0", "metadata": {}, "outputs": [error]}
    (tmp_path / "01_lr_batch.ipynb").write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(FlatlibError, match="stopped at ZeroDivisionError: division by zero"):
        build(chapters=tmp_path, output=tmp_path / "out")


@pytest.fixture
def build_page(tmp_path, monkeypatch):
    """Return a function that builds a book of one page, in a second."""
    root = tmp_path / "checkout"
    for name in ("_static", "_templates", "_ext"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    for name in ("_config.yml", "book/references.bib", "book/records/03_sam/small.jsonl", "book/claims/03_sam.ipynb"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text(CONTENTS)
    monkeypatch.chdir(root)

    def build_one(text, **options):
        (root / "book" / "index.md").write_text(text)
        return build(output=tmp_path / "out", **options)

    return build_one


LANGUAGE = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"/>'


def executed_chapter(**texts: str) -> dict:
    """Return a chapter with a figure, which quotes what its cell has glued."""
    stored = [
        new_output("display_data", {RECORD: repr(text)}, metadata={"scrapbook": {"name": name, "mime_prefix": GLUE}})
        for name, text in texts.items()
    ]
    figure = {"mystnb": {"figure": {"name": "fig-a", "caption": "A caption."}, "image": {"alt": "a"}}}
    cell = new_code_cell("x", outputs=[*stored, new_output("display_data", {"image/svg+xml": SVG})], metadata=figure)
    text = "# SAM\n\n[{glue:text}`verdict`]{.verdict} {numref}`fig-a`, [home](../index.md)"
    return json.loads(nbformat.writes(new_notebook(cells=[new_markdown_cell(text), cell], metadata=LANGUAGE)))


def test_own_runs_are_shown_beside_the_published_pages(tmp_path, build_page, capsys):
    root = Path.cwd()
    write(root / "book" / "claims" / "03_sam.ipynb", executed_chapter(verdict="supported", scale="large"))
    (root / "book" / "explorer.md").write_text("# Explorer")
    files = ["book/claims/03_sam", "book/explorer"]
    (root / "_toc.yml").write_text(f"{CONTENTS}parts:\n  - chapters: {[{'file': file} for file in files]}\n")
    own = executed_chapter(verdict="contradicted", scale="tiny")
    failed = executed_chapter(verdict="supported", scale="tiny")
    failed["cells"][-1]["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "x", "traceback": []}]
    for place, page in {"medium/03_sam": failed, "smoke/03_sam": own, "smoke/mine": own}.items():
        write(tmp_path / "run" / f"{place}.ipynb", page)
    resolve_file(tmp_path / "run" / "smoke" / "03_sam.ipynb")
    page = build_page("# Book", runs=tmp_path / "run").parent / "book" / "runs"
    assert sorted(path.name for path in page.rglob("*.html")) == ["03_sam.html", "smoke.html"]
    left_out = re.findall(r"not shown: \S+/(\S+) \(([\w ]+)", capsys.readouterr().err)
    assert left_out == [("03_sam.ipynb", "stopped at E"), ("mine.ipynb", "not a chapter of the book")]
    table = (page / "smoke.html").read_text(encoding="utf-8")
    assert re.findall(r'data-verdict="(\w+)"', table) == ["contradicted", "supported"]
    assert all(f'href="{link}"' in table for link in ("smoke/03_sam.html", "../claims/03_sam.html"))
    text = (page / "smoke" / "03_sam.html").read_text(encoding="utf-8")
    assert "Your run at the preset" in text
    assert "<strong>Figure 1.</strong> A caption." in text
    assert all(f'href="{link}"' in text for link in ("../../claims/03_sam.html", "../../index.html"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{ref}`nowhere`", "nowhere"),
        ("$\\nosuchcommand{x}$", "an equation cannot be read .*nosuchcommand"),
        ('```{raw} html\n<a href="nowhere.html">there</a>\n```', "a link leads nowhere, .*nowhere.html"),
    ],
)
def test_a_broken_page_replaces_nothing(tmp_path, build_page, text, reason):
    old = tmp_path / "out" / "html"
    old.mkdir(parents=True)
    (old / ".buildinfo").write_text("an earlier build")
    with pytest.raises(FlatlibError, match=f"not built: .*{reason}"):
        build_page(f"# Broken\n\n{text}")
    assert [path.name for path in old.iterdir()] == [".buildinfo"]
    assert (tmp_path / "out" / "book.log").stat().st_size


def test_an_unsuitable_output_is_an_error(tmp_path):
    page = tmp_path / "html" / "thesis.html"
    page.parent.mkdir()
    page.write_text("years of work")
    with pytest.raises(FlatlibError, match="is not a book"):
        build(output=tmp_path)
    with pytest.raises(FlatlibError, match="cannot be read or written"):
        build(output=page / "out")
    assert page.read_text() == "years of work"


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top-of-a"></h1><a href="b.html#there"></a><img src="c.svg">')
    (tmp_path / "b.html").write_text('<a href="a.html#top-of-a"></a><a href="#here"></a><a href="https://a.b/c"></a>')
    assert html.dead_links(tmp_path) == ["a.html: b.html#there", "a.html: c.svg", "b.html: #here"]


def test_html_is_finished(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="1in"/>')
    badge = '<span class="verdict"><span class="pasted-text">supported</span></span>'
    badge += '<span class="verdict">not tested here</span>'
    drawing = '<svg><path d="M 1.23456 7 L -0.999 2"/><text x="1.23456" transform="rotate(-0 1 2)">1.23456</text></svg>'
    (tmp_path / "a.html").write_text(f'<img alt="a" src="_images/a.svg" />{badge}{drawing}')
    html.finish_pages(tmp_path)
    html.finish_pages(tmp_path)  # what is done stays as it is
    done = (tmp_path / "a.html").read_text()
    assert '<img width="96" height="96" alt="a" src="_images/a.svg" />' in done
    for word in ("supported", "not tested here"):
        assert done.count(f'class="verdict" data-verdict="{word}">') == 1
    assert '<path d="M 1.23 7 L -1.00 2"/><text x="1.23">1.23456</text>' in done
