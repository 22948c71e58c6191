"""Every page of the built book in a browser: on a desktop and on a phone, in both themes."""

import io
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from browser import CHAPTER_PAGES, PAGES, THEMES, WIDTHS, open_page, requested, set_theme

BROKEN = """return [...document.querySelectorAll('img')]
    .filter(img => !img.complete || !img.naturalWidth || !img.alt.trim()
        || (img.closest('article') && !img.getBoundingClientRect().width))
    .map(img => img.src)"""
WIDE = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
SHIFTED = """const [done] = arguments;
    new PerformanceObserver(list => done(list.getEntries().map(shift =>
        [shift.value, ...shift.sources.map(source => source.node?.outerHTML?.slice(0, 120))])))
        .observe({type: 'layout-shift', buffered: true});
    setTimeout(() => done([]), 100)"""
WEIGHT = """return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .map(entry => [entry.decodedBodySize, entry.name])"""
LIMIT = 1_000_000  # bytes of a page with all it loads, not compressed
LIMITS = {"book/explorer.html": 3_000_000}  # loads a plotting library and every run
STEADY = 0.1  # largest layout shift that is called good (web.dev); on an idle machine the pages stay below 0.01
STANDARD = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
CONTRAST = "color-contrast"
CHECKS = {  # what axe-core looks for: names and roles are the same in both themes, contrasts at both widths
    (WIDTHS[0], "light"): {"runOnly": STANDARD},
    (WIDTHS[0], "dark"): {"runOnly": [CONTRAST]},
    (WIDTHS[1], "light"): {"runOnly": STANDARD, "rules": {CONTRAST: {"enabled": False}}},
}
VIOLATIONS = """const [options, done] = arguments;
    axe.run({exclude: ['math']}, {...options, resultTypes: ['violations'], preload: false}).then(result => done(
        result.violations.filter(rule => ['serious', 'critical'].includes(rule.impact)).map(rule =>
            [rule.id, ...rule.nodes.map(node => `${node.target} ${node.html.slice(0, 120)}`).slice(0, 5)].join('\\n  '))
    ))"""


@pytest.fixture(scope="session")
def axe():
    """Return axe-core, the accessibility checker, as a script."""
    package = find_spec("axe_playwright_python")
    if package is None:
        pytest.skip("axe-playwright-python is not installed")
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=PAGES)
def visit(request, browser, address, axe):
    """Return all findings of one visit of a page, at both widths and in both themes."""
    browser.get_log("browser"), browser.get_log("performance")  # a log is emptied by reading it
    found = SimpleNamespace(page=request.param, wide={}, violations={}, broken=[], shifts={}, weights={})
    for width in WIDTHS:
        open_page(browser, f"{address}/{found.page}", width)
        found.shifts[width] = browser.execute_async_script(SHIFTED)
        found.weights[width] = sorted(browser.execute_script(WEIGHT))
        browser.execute_script(axe)
        for theme in THEMES:
            set_theme(browser, theme)
            found.wide[width, theme] = browser.execute_script(WIDE)
            if (width, theme) in CHECKS:
                check = CHECKS[width, theme]
                found.violations[width, theme] = browser.execute_async_script(VIOLATIONS, check)
        found.broken += browser.execute_script(BROKEN)
    found.title = browser.find_element("css selector", "article h1").text
    found.away = [url for url in requested(browser) if not url.startswith(f"{address}/")]
    found.errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return found


def test_a_page_loads_without_faults(visit):
    """It has a title, every image with its text, no error on the console, and no request to a network."""
    assert visit.title
    assert visit.broken == visit.errors == visit.away == []


def test_a_page_fits_and_is_light(visit):
    assert {where: wide for where, wide in visit.wide.items() if wide > where[0]} == {}
    for width in WIDTHS:
        assert sum(shift[0] for shift in visit.shifts[width]) <= STEADY, visit.shifts[width]
        assert sum(size for size, _ in visit.weights[width]) <= LIMITS.get(visit.page, LIMIT), visit.weights[width][-8:]


def test_a_page_is_accessible(visit):
    assert {where: found for where, found in visit.violations.items() if found} == {}


def test_equations_have_the_books_font(browser, address):
    open_page(browser, f"{address}/book/method/curvature.html", WIDTHS[0])
    drawn = """const all = [...document.querySelectorAll('article math')]; return [
        all.length, all.filter(e => e.getAttribute('display') === 'block').length,
        all.filter(e => !e.getBoundingClientRect().width).length, document.fonts.check("16px 'STIX Two Math'")]"""
    equations, displayed, *rest = browser.execute_script(drawn)
    assert equations > displayed + 5 > 10
    assert rest == [0, True]


@pytest.mark.parametrize("page", CHAPTER_PAGES)
def test_chapters_show_verdict_and_figure(browser, address, page):
    open_page(browser, f"{address}/{page}", WIDTHS[0])
    badge = browser.find_element("css selector", ".claim-card .verdict")
    assert badge.get_attribute("data-verdict") == badge.text, "the badge has no colour"
    assert browser.find_elements("css selector", "figure img")


LAID_OUT = """const article = document.querySelector('article');
    const of = element => element.getBoundingClientRect();
    const shown = [...article.querySelectorAll('table')].filter(table => !table.closest('details:not([open])'));
    const tables = shown.reduce((sum, table) => sum + of(table).height, 0);
    return [of(article.querySelector('figure img')).top + window.scrollY, tables / of(article).height]"""
SCREEN = 900  # pixels
FIRST_FIGURE = 1.2  # screens down to the top of the first figure, at most
TABLES = 0.15  # of a chapter's height, at most


@pytest.mark.parametrize("page", CHAPTER_PAGES)
def test_a_chapter_is_led_by_its_picture(browser, address, page):
    """The first figure is near the top, and tables that are not folded take a small part of the page."""
    open_page(browser, f"{address}/{page}", WIDTHS[0])
    first, tables = browser.execute_script(LAID_OUT)
    assert first <= FIRST_FIGURE * SCREEN
    assert tables <= TABLES


SMALLEST = """return [...document.querySelectorAll('article figure img')].map(img => {
    const shrunk = img.getBoundingClientRect().width / img.naturalWidth;
    return [img.alt.slice(0, 60), shrunk]})"""


@pytest.mark.parametrize(("page", "figure"), [(page, -1) for page in CHAPTER_PAGES[:1]] + [("book/index.html", 0)])
def test_verdict_pictures_are_readable_on_a_phone(browser, address, page, figure):
    """Their smallest letters have eight points, ten and two thirds of a pixel; on a phone eight pixels are left."""
    open_page(browser, f"{address}/{page}", WIDTHS[1])
    shown = [shrunk for alt, shrunk in browser.execute_script(SMALLEST) if figure == 0 or "One row for each" in alt]
    assert 8 * 4 / 3 * shown[0] >= 8


@pytest.mark.parametrize(("theme", "paper"), [("light", 255), ("dark", 18)])
def test_figures_match_the_pages_theme(browser, address, theme, paper):
    open_page(browser, f"{address}/book/claims/01_lr_batch.html", WIDTHS[0])
    set_theme(browser, theme)
    png = browser.find_element("css selector", "figure img").screenshot_as_png
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)
    assert grey[2, 2] == pytest.approx(paper, abs=3)
    assert np.abs(grey - paper).max() > 150, "nothing visible on it"


def test_injected_parameters_are_hidden(browser, address):
    open_page(browser, f"{address}/book/claims/01_lr_batch.html", WIDTHS[0])
    cell = "document.body.insertAdjacentHTML('beforeend', '<div class=\"cell tag_injected-parameters\">x</div>');"
    assert browser.execute_script(f"{cell} return document.body.lastElementChild.offsetHeight") == 0


SLIDER = "book/method/primer.html"
SHOWN = """return [...new Set([...document.querySelectorAll('.frames [data-now]')]
    .filter(group => getComputedStyle(group).display !== 'none').map(group => Number(group.dataset.now)))]"""
LAST, EVERY = 40, 12  # frames, and updates between two


@pytest.fixture
def slider(browser, address):
    """Return a function that sets the reader's preference about motion, on the page with the slider."""
    open_page(browser, f"{address}/{SLIDER}", WIDTHS[1])

    def prefer(value):
        features = [{"name": "prefers-reduced-motion", "value": value}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    yield prefer
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def wait(condition, words):
    """Wait until the condition holds; a page learns of a preference at its next frame only."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


def test_the_keyboard_moves_the_slider(browser, slider):
    keys = pytest.importorskip("selenium.webdriver").Keys
    slider("no-preference")
    control = browser.find_element("css selector", ".frames input")
    assert (control.accessible_name, browser.execute_script(SHOWN)) == ("Training", [LAST])
    for key, frame in ((keys.ARROW_LEFT, LAST - 1), (keys.HOME, 0), (keys.ARROW_RIGHT, 1), (keys.END, LAST)):
        control.send_keys(key)
        assert browser.execute_script(SHOWN) == [frame]
        text = browser.find_element("css selector", ".frames output").text
        assert text.startswith(f"update {EVERY * frame}: sharpness ")
        assert control.get_attribute("aria-valuetext") == text


def test_the_button_plays_and_pauses(browser, slider):
    """A reader who prefers less motion has no button, and nothing moves from then on."""
    slider("no-preference")
    button = browser.find_element("css selector", ".frames button")
    for stop in (button.click, lambda: slider("reduce")):
        wait(button.is_displayed, "no button")
        button.click()
        assert button.text == "Pause"
        wait(lambda: 3 <= browser.execute_script(SHOWN)[0] < LAST, "nothing moves")
        stop()
        wait(lambda: button.text != "Pause", "it does not pause")
        paused = browser.execute_script(SHOWN)
        time.sleep(0.3)
        assert browser.execute_script(SHOWN) == paused
    assert not button.is_displayed()
    assert browser.find_element("css selector", ".frames input").is_displayed()


@pytest.fixture
def scriptless(browser):
    """Return a browser that runs no scripts."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield browser
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_pages_work_without_scripts(scriptless, address):
    """The slider's last frame stands alone, and the Explorer is a picture."""
    scriptless.get(f"{address}/{SLIDER}")
    frames = scriptless.find_elements("css selector", ".frames [data-now]:not([style*=none])")
    assert {group.get_attribute("data-now") for group in frames} == {str(LAST)}
    assert not scriptless.find_element("css selector", ".frames .frames-controls").is_displayed()
    scriptless.get(f"{address}/book/explorer.html")
    assert scriptless.find_element("css selector", "noscript figure img").size["width"] > 300
    assert not scriptless.find_element("css selector", ".explorer").is_displayed()
