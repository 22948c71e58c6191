"""Paths in a checkout of the book."""

import json
from pathlib import Path
from typing import Any

from flatlib.errors import FlatlibError

CHAPTER = "[0-9]*_*.ipynb"  # in book/claims; a notebook without a number there is a page about all chapters


def find_root() -> Path:
    """Return the checkout (with ``_toc.yml`` and ``book/claims``) around the working directory, else the package."""
    start = Path.cwd().resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "_toc.yml").is_file() and (folder / "book" / "claims").is_dir():
            return folder
    raise FlatlibError(f"no book here: {start} is not in a checkout of it; clone the book's repository, change into it")


def notebooks(root: Path) -> dict[str, Path]:
    """Return the notebook of every chapter, by name."""
    return {path.stem: path for path in sorted((root / "book" / "claims").glob(CHAPTER))}


def other_pages(root: Path) -> dict[str, Path]:
    """Return every notebook of the book that is not a chapter, by name: it has no parameters and no runs of its own."""
    chapters = notebooks(root).values()
    return {path.stem: path for path in sorted((root / "book").glob("**/*.ipynb")) if path not in chapters}


def notebook(root: Path, name: str) -> Path:
    """Return the notebook of one chapter; an unknown name is a `FlatlibError` that lists the known ones."""
    known = notebooks(root)
    if name not in known:
        raise FlatlibError(f"unknown chapter {name!r}; allowed: {', '.join(known)}, all")
    return known[name]


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook as JSON; another file is a `FlatlibError`."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise FlatlibError(f"{path.name}: not a notebook") from None
    return notebook
