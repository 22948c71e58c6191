"""The book as a reader gets it: built once from the committed notebooks, every page opened in a real browser."""

import functools
import http.server
import json
import posixpath
import shutil
import threading
import time

import pytest
from sphinx.util.inventory import InventoryFile

import flatlib.book
from flatlib.checkout import find_root, notebooks
from flatlib.docstrings import public
from flatlib.errors import FlatlibError

ROOT = find_root()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver") or shutil.which("chromium.chromedriver")
SETTLED_S = 20  # time a page gets to typeset its equations
WIDTHS = (1400, 390)  # a desktop, a phone
PAGES = [
    "book/index.html",
    "book/claims/01_lr_batch.html",
    "book/claims/02_linear_scaling.html",
    "book/claims/03_sam.html",
    "book/claims/04_dropout.html",
    "book/claims/05_batch_norm.html",
    "book/claims/06_weight_decay.html",
    "book/claims/07_adam_vs_sgd.html",
    "book/claims/08_progressive_sharpening.html",
    "book/claims/09_label_smoothing.html",
    "book/claims/10_minimum_sharpness.html",
    "book/claims/11_regularisers.html",
    "book/claims/overview.html",
    "book/api/index.html",
    "book/api/curvature.html",
    "book/api/sharpness.html",
    "book/api/measures.html",
    "book/api/runs.html",
    "book/api/claims.html",
    "book/api/figures.html",
    "book/method/curvature.html",
    "book/method/ledger.html",
    "book/method/libraries.html",
    "book/method/toy.html",
    "book/method/rerun.html",
    "book/method/scale.html",
    "book/method/your_model.html",
    "book/contributing.html",
    "book/references.html",
]
COMMITTED = list(notebooks(ROOT).values())


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not write to the terminal."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """The folder of the built book."""
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "book").rglob("*")}
    page = flatlib.book.build(output=tmp_path_factory.mktemp("book"))
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "book").rglob("*")} == before, "the build wrote to book/"
    return page.parent


@pytest.fixture(scope="session")
def address(pages):
    """The book on a local server, as a browser would get it from a host."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=pages)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium with a fresh profile, its console and its network on record."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("Chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def open_page(browser, url, width):
    """Open `url` in a window of this width and wait until its equations are set."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    deadline = time.monotonic() + SETTLED_S
    pending = """return document.readyState !== 'complete' ||
        (document.querySelector('.math') !== null && document.querySelector('mjx-container') === null)"""
    while browser.execute_script(pending):
        assert time.monotonic() < deadline, f"{url}: equations were not typeset within {SETTLED_S} s"
        time.sleep(0.05)


def requested(browser):
    """Every address on a network that the browser asked for since the last call (its own start page has others)."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]


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


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, address, page):
    browser.get_log("browser"), browser.get_log("performance")  # a log is emptied by reading it
    for width in WIDTHS:
        open_page(browser, f"{address}/{page}", width)
        wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        scrolled = browser.execute_script(wide)
        assert scrolled <= width, f"{page} is {scrolled} px wide in a window of {width}"
    assert browser.find_element("css selector", "article h1").text
    broken = """return [...document.querySelectorAll('article img')]
        .filter(img => !img.complete || !img.naturalWidth || !img.getBoundingClientRect().width || !img.alt.trim())
        .map(img => img.src)"""
    assert browser.execute_script(broken) == [], "figures that are empty or have no alternative text"
    away = [url for url in requested(browser) if not url.startswith(f"{address}/")]
    assert away == [], "opening a page must not ask the network for anything"
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


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


@pytest.mark.parametrize("theme", ["light", "dark"])
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
