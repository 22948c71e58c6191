"""The book on paper: all pages as one, printed to a PDF by a browser without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from flatlib.book import explorer
from flatlib.book.build import copied_sources, render
from flatlib.book.html import finish_pages
from flatlib.book.paper import for_paper, page_numbers
from flatlib.errors import FlatlibError

MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"  # not on the PATH of a Mac
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", MAC)
HEADLESS = (  # a browser without a window and without network traffic of its own
    *("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
LIGHT = "--blink-settings=preferredColorScheme=1"  # whatever the system prefers
PRINTED = (LIGHT, "--no-pdf-header-footer", "--generate-pdf-document-outline")
TIMEOUT = 300  # seconds to print some 200 pages, on a slow machine


def print_book(pdf: Path, chapters: Path | None = None, api: bool = False) -> Path:
    """Print the book, with page numbers and an outline, and return the file.

    Args:
        pdf: The file to write.
        chapters: Executed chapters to show in place of the committed ones, as for `flatlib.book.build.build`.
        api: Whether the pages about the package's functions are printed, too.

    Raises:
        FlatlibError: No browser, a browser that fails, or a book that cannot be built.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FlatlibError("no Chromium and no Chrome was found; the PDF is printed by one of them")
    pdf = pdf.absolute()
    with copied_sources(chapters, pdf.with_suffix(".log")) as (source, log):
        folder = render(source, "singlehtml", log)
        page = folder / "all.html"
        (folder / "book" / "index.html").rename(page)  # its links lead from the top folder, but it is not written there
        finish_pages(folder)
        explorer.write(source, folder / "_static" / "explorer")
        text, numbers = page.read_text(encoding="utf-8"), dict[str, int]()
        for _ in range(2):  # the page numbers of the contents are known once it has been printed
            page.write_text(for_paper(text, numbers, api), encoding="utf-8")
            print_page(browser, page, pdf)
            numbers = page_numbers(pdf.read_bytes())
    pdf.with_suffix(".log").unlink()
    return pdf


def print_page(browser: str, page: Path, pdf: Path) -> None:
    """Print one HTML file."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # in a container; the browser starts there without sandbox only
    with tempfile.TemporaryDirectory(prefix="flatlib-print-") as profile:
        options = [*HEADLESS, *PRINTED, *["--no-sandbox"] * root, f"--user-data-dir={profile}"]
        command = [browser, *options, f"--print-to-pdf={pdf}", page.as_uri()]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        except (subprocess.SubprocessError, OSError) as error:
            raise FlatlibError(f"{browser} could not print the book: {str(error).splitlines()[0][:200]}") from None
    if not pdf.is_file():
        raise FlatlibError(f"{pdf}: {browser} wrote nothing; is the folder writable?")
