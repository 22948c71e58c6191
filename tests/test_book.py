"""The book as a reader gets it: built once from the committed notebooks, every page opened in a real browser."""

import json

import pytest
from browser import PAGES, ROOT, THEMES, WIDTHS, open_page

import flatlib.book
from flatlib.checkout import notebooks
from flatlib.errors import FlatlibError

COMMITTED = list(notebooks(ROOT).values())


def test_every_page_is_listed(pages):
    built = {path.relative_to(pages).as_posix() for path in (pages / "book").rglob("*.html")}
    assert built == set(PAGES)


def test_no_path_of_this_machine(pages):
    for page in PAGES:
        assert str(ROOT) not in (pages / page).read_text(encoding="utf-8"), page


def test_equations_are_typeset(browser, address):
    open_page(browser, f"{address}/book/method/curvature.html", WIDTHS[0])
    raw = """const equations = [...document.querySelectorAll('.math')];
        return [equations.length, equations.filter(e => !e.querySelector('mjx-container')).length,
                document.querySelectorAll('mjx-merror').length]"""
    equations, untouched, wrong = browser.execute_script(raw)
    assert equations > 10
    assert (untouched, wrong) == (0, 0)


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
    flatlib.book.overlay(rerun, book)
    texts = {path.name: path.read_text() for path in (book / "claims").iterdir()}
    assert texts == {"01_a.ipynb": "rerun", "02_b.ipynb": "committed"}


def test_a_folder_without_chapters_is_an_error(tmp_path):
    with pytest.raises(FlatlibError, match=r"no chapter in this folder.*01_lr_batch"):
        flatlib.book.build(chapters=tmp_path, output=tmp_path / "out")


def test_a_chapter_that_stopped_is_an_error(tmp_path):
    notebook = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    error = {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": []}
    notebook["cells"].append({"cell_type": "code", "source": "1 / 0", "metadata": {}, "outputs": [error]})
    (tmp_path / COMMITTED[0].name).write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(FlatlibError, match="stopped at ZeroDivisionError: division by zero"):
        flatlib.book.build(chapters=tmp_path, output=tmp_path / "out")


def test_a_warning_fails_the_build_and_leaves_the_old_pages(tmp_path):
    notebook = json.loads(COMMITTED[0].read_text(encoding="utf-8"))
    notebook["cells"][0]["source"] = "# Broken\n\n{ref}`nowhere`"
    (tmp_path / "rerun").mkdir()
    (tmp_path / "rerun" / COMMITTED[0].name).write_text(json.dumps(notebook), encoding="utf-8")
    old = tmp_path / "out" / "html"
    old.mkdir(parents=True)
    (old / ".buildinfo").write_text("an earlier build")
    with pytest.raises(FlatlibError, match=r"not built: .*nowhere.*book\.log"):
        flatlib.book.build(chapters=tmp_path / "rerun", output=tmp_path / "out")
    assert [path.name for path in old.iterdir()] == [".buildinfo"]
    assert "nowhere" in (tmp_path / "out" / "book.log").read_text(encoding="utf-8")


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "thesis.html").write_text("years of work")
    with pytest.raises(FlatlibError, match="is not a book"):
        flatlib.book.build(output=tmp_path)
    assert (tmp_path / "html" / "thesis.html").exists()


def test_an_output_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FlatlibError, match="cannot be written"):
        flatlib.book.build(output=tmp_path / "file" / "out")
