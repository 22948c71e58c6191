"""Pages of the book, their titles, and where their labels are: for notebooks that link to them from elsewhere."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from flatlib.book.paths import read_notebook

LABEL = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
NAMED = re.compile(r"^:name: *(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class PageLinks:
    """Links to pages of the book, from a copy of one of them.

    Attributes:
        root: The checkout, or a copy of its ``book``.
        page: The page that was copied; None for a notebook that is no page of the book.
        folder: Folder of the copy, to which links are relative; None if the pages cannot be reached from there.
        address: Address of the published pages; links lead there, wherever the copy lies.
    """

    root: Path
    page: Path | None
    folder: Path | None
    address: str = ""

    def __call__(self, target: str) -> tuple[str, str] | None:
        """Return the address and the title for a link's target (``other.md``, ``#label``), None if there is none."""
        name, _, label = target.partition("#")
        page = labels(self.root).get(label) if not name else self.page and (self.page.parent / name).resolve()
        if page is None or page not in titles(self.root):
            return None
        if self.address:
            place = page.relative_to(self.root).with_suffix(".html").as_posix()
            return f"{self.address}{place}{'#' * bool(label)}{label}", titles(self.root)[page]
        if self.folder is None:
            return None
        return PurePosixPath(os.path.relpath(page, self.folder)).as_posix(), titles(self.root)[page]


@cache
def sources(root: Path) -> dict[Path, str]:
    """Return the Markdown of every page of the book."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted((root / "book").rglob("*.md"))}
    for path in sorted((root / "book").rglob("*.ipynb")):
        cells = read_notebook(path)["cells"]
        pages[path] = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        figures = [cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells]
        pages[path] += "".join(f"\n:name: {name}" for name in figures if name)
    return pages


@cache
def titles(root: Path) -> dict[Path, str]:
    """Return the title of every page."""
    found = {path: re.search(r"^# (.+)$", text, re.MULTILINE) for path, text in sources(root).items()}
    return {path: title[1] if title else path.stem for path, title in found.items()}


@cache
def labels(root: Path) -> dict[str, Path]:
    """Return the page of every label: of sections, and of figures."""
    return {label: page for page, text in sources(root).items() for label in LABEL.findall(text) + NAMED.findall(text)}
