"""The book on paper: all its pages as one, printed to a PDF by a browser without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from flatlib.book.build import render, sources
from flatlib.book.html import finish
from flatlib.errors import FlatlibError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
HEADLESS = [
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
"""Options of a browser without a window that speaks to nobody."""
PRINTED = [
    "--blink-settings=preferredColorScheme=1",  # light, whatever the system prefers
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
]
PATIENCE = 300  # seconds


def find_browser() -> str:
    """Chromium or Chrome.

    Raises:
        FlatlibError: there is none.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise FlatlibError("no Chromium and no Chrome was found; the PDF is printed by one of them")


def print_book(pdf: Path, chapters: Path | None = None) -> Path:
    """Print the book, with page numbers and an outline, and return the file.

    Args:
        pdf: the file to write.
        chapters: a folder of executed chapters to draw in place of the committed ones, as for `flatlib.book.build.build`.

    Raises:
        FlatlibError: no browser, a browser that fails, or any reason for which the book cannot be built.
    """
    browser, pdf = find_browser(), pdf.absolute()
    with sources(chapters, pdf.with_suffix(".log")) as (source, log):
        folder = render(source, "singlehtml", log)
        page = folder / "all.html"
        (folder / "book" / "index.html").rename(page)  # its links lead from the top folder, but it is not written there
        finish(folder)
        print_page(browser, page, pdf)
    pdf.with_suffix(".log").unlink()
    return pdf


def print_page(browser: str, page: Path, pdf: Path) -> None:
    """One HTML file on paper."""
    with tempfile.TemporaryDirectory(prefix="flatlib-print-") as profile:
        own = [f"--user-data-dir={profile}", f"--print-to-pdf={pdf}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            own.append("--no-sandbox")  # as root, in a container, it does not start with one
        command = [browser, *HEADLESS, *PRINTED, *own, page.as_uri()]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        except (subprocess.SubprocessError, OSError) as error:
            raise FlatlibError(f"{browser} could not print the book: {str(error).splitlines()[0][:200]}") from None
    if not pdf.is_file():
        raise FlatlibError(f"{pdf}: {browser} wrote nothing; is the folder writable?")
