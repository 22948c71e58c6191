"""The built book in a real browser: its pages, a server for them, and headless Chromium."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
import time

import pytest
from filelock import FileLock

import flatlib.book.build
from flatlib.book.paths import find_root
from flatlib.book.pdf import BROWSERS, HEADLESS

ROOT = find_root()
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
CHROMEDRIVER = shutil.which("chromedriver") or shutil.which("chromium.chromedriver")
SETTLED_S = 20  # time a page gets to load
WIDTHS = (1400, 390)  # a desktop, a phone
THEMES = ("light", "dark")
PAGES = [f"{page}.html" for page in re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())]
CHAPTER_PAGES = [page for page in PAGES if re.search(r"/claims/\d", page)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not write to the terminal."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Return the folder of the built book; parallel test processes build it once."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return built(tmp_path_factory.mktemp("book"))
    folder = tmp_path_factory.getbasetemp().parent / "book"
    with FileLock(folder.with_suffix(".lock")):
        done = folder / "html" / "index.html"
        return done.parent if done.exists() else built(folder)


def built(folder):
    """Return the pages of the book, built in a folder."""
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "book").rglob("*")}
    page = flatlib.book.build.build(output=folder)
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "book").rglob("*")} == before, "the build wrote to book/"
    return page.parent


@pytest.fixture(scope="session")
def address(pages):
    """Return the address of the book on a local server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=pages)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Return headless Chromium with a fresh profile, which logs its console and its network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("Chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (*HEADLESS, "--no-sandbox", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        driver.set_page_load_timeout(60)
        driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})  # no page profits from another
        yield driver
    finally:
        driver.quit()


def open_page(browser, url, width):
    """Open `url` in a window of this width and wait until it is loaded, fonts included."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    deadline = time.monotonic() + SETTLED_S
    while browser.execute_script("return document.readyState !== 'complete' || document.fonts.status !== 'loaded'"):
        assert time.monotonic() < deadline, f"{url} was not loaded within {SETTLED_S} s"
        time.sleep(0.05)


def set_theme(browser, theme):
    """Set the theme that the reader's system prefers, which the open page follows."""
    still = {"name": "prefers-reduced-motion", "value": "reduce"}  # a colour that fades in has its contrast only later
    prefers = [{"name": "prefers-color-scheme", "value": theme}, still]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": prefers})
    deadline = time.monotonic() + SETTLED_S
    while browser.execute_script("return document.documentElement.dataset.theme") != theme:
        assert time.monotonic() < deadline, f"the page did not turn {theme}"
        time.sleep(0.01)


def requested(browser):
    """Return every network address requested since the last call (the browser's own start page has others)."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]
