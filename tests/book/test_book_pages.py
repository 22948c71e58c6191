"""Every page of the built book as a reader meets it: on a desktop and on a phone, by day and by night."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import PAGES, THEMES, WIDTHS, open_page, requested, set_theme

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
LIMIT = 1_500_000  # bytes of a page with all it loads, not compressed
EXPLORER = "book/explorer.html"  # loads a plotting library and every run; a limit of its own
LIMITS = {EXPLORER: 3_500_000}
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
    """axe-core, the accessibility checker, as a script."""
    package = find_spec("axe_playwright_python")
    if package is None:
        pytest.skip("axe-playwright-python is not installed")
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=PAGES)
def visit(request, browser, address, axe):
    """All that one visit of a page tells, at both widths and in both themes."""
    browser.get_log("browser"), browser.get_log("performance")  # a log is emptied by reading it
    found = SimpleNamespace(page=request.param, wide={}, violations={}, broken=[], shifts={}, weights={})
    for width in WIDTHS:
        open_page(browser, f"{address}/{found.page}", width)
        found.shifts[width] = browser.execute_async_script(SHIFTED)
        found.weights[width] = browser.execute_script(WEIGHT)
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


def test_it_has_a_title(visit):
    assert visit.title


def test_it_does_not_scroll_sideways(visit):
    assert {where: wide for where, wide in visit.wide.items() if wide > where[0]} == {}


def test_every_image_is_drawn_and_has_an_alternative_text(visit):
    assert visit.broken == []


def test_it_asks_the_network_for_nothing(visit):
    assert visit.away == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_while_it_loads(visit, width):
    assert sum(shift[0] for shift in visit.shifts[width]) <= STEADY, visit.shifts[width]


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_light(visit, width):
    assert sum(size for size, _ in visit.weights[width]) <= LIMITS.get(visit.page, LIMIT), sorted(visit.weights[width])[
        -8:
    ]


def test_the_console_has_no_error(visit):
    assert visit.errors == []


@pytest.mark.parametrize(("width", "theme"), CHECKS)
def test_it_is_accessible(visit, width, theme):
    assert visit.violations[width, theme] == []
