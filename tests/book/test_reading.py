"""What a reader meets on the built pages: figures and tables on a phone, words in tables, terms, search."""

import re

import pytest

from browser import CHAPTER_PAGES, PAGES, WIDTHS, open_page

PHONE = WIDTHS[1]
READABLE = 8  # pixels
SIZES = """const done = arguments[0];
    const images = [...document.querySelectorAll('article figure img')].filter(e => e.currentSrc.includes('_images'));
    Promise.all(images.map(async img => {
        const [file, view] = img.currentSrc.split('#');
        const svg = new DOMParser().parseFromString(await (await fetch(file)).text(), 'image/svg+xml');
        const box = (view ? svg.getElementById(view) : svg.documentElement).getAttribute('viewBox').split(' ');
        const shown = img.getBoundingClientRect();
        const scale = Math.min(shown.width / box[2], shown.height / box[3]);
        const size = text => Math.max(0, ...(text.outerHTML.match(/font[^;"]*?[\\d.]+px/g) || [])
            .map(style => parseFloat(style.match(/([\\d.]+)px/)[1])));  // of an equation its letters, not its indices
        return [file.split('/').pop(), Math.min(...[...svg.querySelectorAll('text')].map(size)) * scale];
    })).then(done)"""
TABLES = """return [...document.querySelectorAll('article table.dataframe, article table.docutils')]
    .filter(table => !table.classList.contains('autosummary'))
    .flatMap(table => [...table.querySelectorAll('th, td')]).map(cell => {
        const copy = cell.cloneNode(true);
        copy.querySelectorAll('code, pre, math, sub').forEach(part => part.remove());
        return copy.textContent.trim();
    })"""
RAW = re.compile(r"\b(batch_size|learning_rate|sam_rho|small_cnn\w*|softmax_regression|weight_decay|train_size)\b")
RAW_SYMBOL = re.compile(r"λ_|lambda max|(?<![\w.)\]])-\d|\d-0\.0\b|\u22120\.0*(?![.\d])| \.\. |\d %|^\d+\.0$")


@pytest.mark.parametrize("page", [page for page in PAGES if "/claims/" in page or "/method/" in page])
def test_figures_are_readable_on_a_phone(browser, address, page):
    open_page(browser, f"{address}/{page}", PHONE)
    small = [(name, size) for name, size in browser.execute_async_script(SIZES) if 0 < size < READABLE]
    assert small == []


@pytest.mark.parametrize("page", CHAPTER_PAGES)
def test_verdicts_are_on_a_phones_screen(browser, address, page):
    open_page(browser, f"{address}/{page}", PHONE)
    script = """document.querySelectorAll('details').forEach(part => part.open = true);
        return [...document.querySelectorAll('article table .verdict')].map(e => e.getBoundingClientRect().right)"""
    edges = browser.execute_script(script)
    assert edges
    assert max(edges) <= PHONE


@pytest.mark.parametrize("page", [page for page in PAGES if "/claims/" in page])
def test_tables_have_words_and_typeset_symbols(browser, address, page):
    open_page(browser, f"{address}/{page}", WIDTHS[0])
    cells = browser.execute_script(TABLES)
    assert [cell for cell in cells if RAW.search(cell) or RAW_SYMBOL.search(cell)] == []


def test_columns_are_named_for_a_screen_reader(pages):
    text = (pages / CHAPTER_PAGES[0]).read_text(encoding="utf-8")
    assert "<th" in text
    assert re.findall(r"<th\b(?![^>]*scope=)[^>]*>", text) == []
    assert "Toggle hidden content" not in text


def test_terms_show_their_meaning(pages):
    text = (pages / CHAPTER_PAGES[0]).read_text(encoding="utf-8")
    links = re.findall(r'<a [^>]*#term-(\S+)"([^>]*)>', text)
    assert {"capped", "diverged", "stopping-rule"} <= {name for name, _ in links}
    assert [name for name, rest in links if len(rest) < 30] == []


@pytest.mark.parametrize(
    ("words", "page"),
    [("SAM", "03_sam"), ("edge of stability", "08_progressive_sharpening"), ("Adam", "07_adam_vs_sgd")],
)
def test_the_search_finds_the_chapter(browser, address, words, page):
    waits = pytest.importorskip("selenium.webdriver.support.ui")
    open_page(browser, f"{address}/search.html?q={words.replace(' ', '+')}", WIDTHS[0])
    texts = "return [...document.querySelectorAll('#search-results .context')].map(e => e.textContent)"
    waits.WebDriverWait(browser, 20, 0.1).until(lambda found: len(found.execute_script(texts)) >= 3)
    first = [link.get_attribute("href") for link in browser.find_elements("css selector", "#search-results li > a")[:3]]
    assert any(page in link for link in first), first
    assert [text for text in browser.execute_script(texts) if "\\" in text] == [], "TeX in an excerpt"


def test_the_magnifier_covers_no_letter(browser, address):
    open_page(browser, f"{address}/search.html?q=sharpness", WIDTHS[0])
    script = """const form = document.querySelector('.bd-search-container form.bd-search');
        const input = form.querySelector('input'), style = getComputedStyle(input);
        return [form.querySelector('svg, i').getBoundingClientRect().right,
            input.getBoundingClientRect().left + parseFloat(style.paddingLeft)]"""
    icon, text = browser.execute_script(script)
    assert icon <= text
