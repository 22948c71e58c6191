"""The book as a reader gets it: built once from the committed notebooks, every page opened in a real browser."""

import io
import json
import posixpath
import shutil

import numpy as np
import pytest
from browser import PAGES, ROOT, THEMES, WIDTHS, open_page, set_theme
from PIL import Image
from sphinx.util.inventory import InventoryFile

import flatlib.book.build
from flatlib.book import links
from flatlib.book.docstrings import public
from flatlib.book.html import finish
from flatlib.book.paths import notebooks
from flatlib.errors import FlatlibError

COMMITTED = list(notebooks(ROOT).values())


def test_every_page_is_listed(pages):
    built = {path.relative_to(pages).as_posix() for path in (pages / "book").rglob("*.html")}
    assert built == set(PAGES)


def test_every_public_name_is_on_an_api_page(pages):
    with (pages / "objects.inv").open("rb") as inventory:
        listed = InventoryFile.load(inventory, "", posixpath.join)
    places = {name: item[2] for kind, names in listed.items() if kind.startswith("py:") for name, item in names.items()}
    for name, full in public().items():
        module = full.removesuffix(f".{name}")  # a constant is listed where it is defined, deeper down
        found = [place for known, place in places.items() if known.startswith(module) and known.endswith(f".{name}")]
        assert any(place.startswith("book/api/") for place in found), full


def test_no_path_of_this_machine(pages):
    for page in PAGES:
        assert str(ROOT) not in (pages / page).read_text(encoding="utf-8"), page


def test_equations_are_drawn_in_the_font_that_comes_with_the_book(browser, address):
    open_page(browser, f"{address}/book/method/curvature.html", WIDTHS[0])
    drawn = """const all = [...document.querySelectorAll('article math')]; return [
        all.length, all.filter(e => e.getAttribute('display') === 'block').length,
        all.filter(e => !e.getBoundingClientRect().width).length, document.fonts.check("16px 'STIX Two Math'")]"""
    equations, displayed, empty, font = browser.execute_script(drawn)
    assert equations > 10
    assert displayed > 4
    assert (empty, font) == (0, True)


@pytest.mark.parametrize("page", [page for page in PAGES if "/claims/" in page and "overview" not in page])
def test_chapter_shows_a_verdict_and_a_figure(browser, address, page):
    open_page(browser, f"{address}/{page}", WIDTHS[0])
    badge = browser.find_element("css selector", ".claim-card .verdict")
    assert badge.text in ("supported", "contradicted", "inconclusive")
    assert badge.get_attribute("data-verdict") == badge.text, "the badge has no colour"
    assert browser.find_elements("css selector", "figure img")


def contrast(browser):
    """The smallest contrast between text and its background over all badges of the page (WCAG 2, AA asks for 4.5)."""
    return browser.execute_script("""
        const luminance = colour => colour.match(/[0-9.]+/g).slice(0, 3)
            .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        return Math.min(...[...document.querySelectorAll('.verdict')].map(badge => {
            const style = getComputedStyle(badge);
            const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }))""")


@pytest.mark.parametrize("theme", THEMES)
def test_badges_are_legible(browser, address, theme):
    open_page(browser, f"{address}/book/index.html", WIDTHS[0])
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    assert len(browser.find_elements("css selector", ".verdict[data-verdict]")) >= 5
    assert contrast(browser) >= 4.5


@pytest.mark.parametrize(("theme", "paper"), [("light", 255), ("dark", 18)])
def test_a_figure_lies_on_the_paper_of_its_page(browser, address, theme, paper):
    open_page(browser, f"{address}/book/claims/01_lr_batch.html", WIDTHS[0])
    set_theme(browser, theme)
    png = browser.find_element("css selector", "figure img").screenshot_as_png
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)
    assert grey[2, 2] == pytest.approx(paper, abs=3)
    assert np.abs(grey - paper).max() > 150, "nothing to be seen on it"


def test_text_in_figures_is_text(pages):
    figures = [path.read_text(encoding="utf-8") for path in (pages / "_images").glob("*.svg")]
    assert len(figures) > 40
    assert [text[:300] for text in figures if "<text" not in text] == []


def test_injected_parameters_are_hidden(browser, address):
    open_page(browser, f"{address}/book/claims/01_lr_batch.html", WIDTHS[0])
    cell = "document.body.insertAdjacentHTML('beforeend', '<div class=\"cell tag_injected-parameters\">x</div>');"
    assert browser.execute_script(f"{cell} return document.body.lastElementChild.offsetHeight") == 0


def test_rerun_chapters_take_the_place_of_the_committed_ones(tmp_path):
    book, rerun = tmp_path / "source", tmp_path / "rerun"
    (book / "claims").mkdir(parents=True)
    rerun.mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb"):
        (book / "claims" / name).write_text("committed")
    (rerun / "01_a.ipynb").write_text("rerun")
    (rerun / "notes.ipynb").write_text("not a chapter")
    flatlib.book.build.overlay(rerun, book)
    texts = {path.name: path.read_text() for path in (book / "claims").iterdir()}
    assert texts == {"01_a.ipynb": "rerun", "02_b.ipynb": "committed"}


def test_a_folder_without_chapters_is_an_error(tmp_path):
    with pytest.raises(FlatlibError, match=r"no chapter in this folder.*01_lr_batch"):
        flatlib.book.build.build(chapters=tmp_path, output=tmp_path / "out")


def test_a_chapter_that_stopped_is_an_error(tmp_path):
    notebook = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    error = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []}
    notebook["cells"].append({"cell_type": "code", "source": "1 / 0", "metadata": {}, "outputs": [error]})
    (tmp_path / COMMITTED[0].name).write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(FlatlibError, match="stopped at ZeroDivisionError: division by zero"):
        flatlib.book.build.build(chapters=tmp_path, output=tmp_path / "out")


@pytest.fixture
def one_page(tmp_path, monkeypatch):
    """Write the only page of a book which else is this one: a second to build."""
    root = tmp_path / "checkout"
    for name in ("_static", "_templates"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    for name in ("_config.yml", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    monkeypatch.setattr("flatlib.book.build.find_root", lambda: root)
    monkeypatch.setattr("flatlib.book.explorer.write", lambda root, book: None)
    return (root / "book" / "index.md").write_text


def test_a_warning_fails_the_build_and_leaves_the_old_pages(tmp_path, one_page):
    one_page("# Broken\n\n{ref}`nowhere`")
    old = tmp_path / "out" / "html"
    old.mkdir(parents=True)
    (old / ".buildinfo").write_text("an earlier build")
    with pytest.raises(FlatlibError, match=r"not built: .*nowhere.*book\.log"):
        flatlib.book.build.build(output=tmp_path / "out")
    assert [path.name for path in old.iterdir()] == [".buildinfo"]
    assert "nowhere" in (tmp_path / "out" / "book.log").read_text(encoding="utf-8")


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "thesis.html").write_text("years of work")
    with pytest.raises(FlatlibError, match="is not a book"):
        flatlib.book.build.build(output=tmp_path)
    assert (tmp_path / "html" / "thesis.html").exists()


def test_an_output_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FlatlibError, match="cannot be written"):
        flatlib.book.build.build(output=tmp_path / "file" / "out")


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top-of-a"></h1><a href="b.html#there"></a><img src="c.svg">')
    (tmp_path / "b.html").write_text('<a href="a.html#top-of-a"></a><a href="#here"></a><a href="https://a.b/c"></a>')
    assert links.broken(tmp_path) == ["a.html: b.html#there", "a.html: c.svg", "b.html: #here"]


def test_a_picture_keeps_its_room_and_a_badge_has_its_colour(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="1in"/>')
    badge = '<span class="verdict"><span class="pasted-text">supported</span></span>'
    (tmp_path / "a.html").write_text(f'<img alt="a" src="_images/a.svg" />{badge}')
    finish(tmp_path)
    finish(tmp_path)  # what is done stays as it is
    done = (tmp_path / "a.html").read_text()
    assert '<img width="96" height="96" alt="a" src="_images/a.svg" />' in done
    assert done.count('class="verdict" data-verdict="supported">') == 1


def test_a_picture_is_the_same_with_fewer_bytes(tmp_path):
    (tmp_path / "_images").mkdir()
    picture = tmp_path / "_images" / "a.svg"
    picture.write_text(
        '<svg width="72pt" height="1in">\n  <path d="M 1.23456 7 L -0.999 2.5"/>\n'
        '  <text x="1.23456" transform="rotate(-0 1.2 3.4)">1.23456</text>\n'
        '  <text transform="rotate(-90 1.2 3.4)">b</text>\n</svg>'
    )
    finish(tmp_path)
    assert picture.read_text() == (
        '<svg width="72pt" height="1in">\n<path d="M 1.23 7 L -1.00 2.5"/>\n'
        '<text x="1.23">1.23456</text>\n<text transform="rotate(-90 1.2 3.4)">b</text>\n</svg>'
    )


def test_an_equation_that_cannot_be_read_fails_the_build(tmp_path, one_page):
    one_page("# Broken\n\n$\\nosuchcommand{x}$")
    with pytest.raises(FlatlibError, match=r"an equation cannot be read .*nosuchcommand"):
        flatlib.book.build.build(output=tmp_path / "out")
