"""Runs of a reader's own in the book: each executed chapter as one more page, beside the published one."""

import sys
from pathlib import Path
from typing import Any

import yaml

from flatlib.book.page_links import PageLinks
from flatlib.book.paths import notebooks, read_notebook
from flatlib.book.resolve import KEPT, resolve, restore, stored_texts, write
from flatlib.errors import FlatlibError

TABLE = """\
# Your runs at *{preset}*

The chapters as `flatlib run` has executed them here, beside the published ones.

| chapter | your verdict | published |
|---|---|---|
"""
ROW = "| [{title}]({preset}/{name}.ipynb) | {own} | {published}, [the page](../claims/{name}.ipynb) |\n"


def add_runs(source: Path, runs: Path) -> list[str]:
    """Add executed chapters to the sources of a book, and return the presets they were run at.

    A notebook that is no chapter of this book, or was not executed to its end, is left out with a line on stderr.

    Args:
        source: Copy of the book's sources, which gets a page for each preset and for each chapter.
        runs: Folder with a folder of executed notebooks for each preset, as ``flatlib run`` writes them.
    """
    parts = {}
    for folder in sorted(path for path in runs.glob("*") if path.is_dir()):
        pages = [path for path in sorted(folder.glob("*.ipynb")) if add_run(source, path, folder.name)]
        if pages:
            rows = "".join(row(source, path, folder.name) for path in pages)
            page = source / "book" / "runs" / f"{folder.name}.md"
            page.write_text(TABLE.format(preset=folder.name) + rows, encoding="utf-8")
            parts[folder.name] = [f"book/runs/{folder.name}/{path.stem}" for path in pages]
    if parts:
        contents = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
        files = [
            {"file": f"book/runs/{preset}", "sections": [{"file": page} for page in pages]}
            for preset, pages in parts.items()
        ]
        contents["parts"] = [{"caption": "Your runs", "chapters": files}, *contents["parts"]]
        (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    return list(parts)


def add_run(source: Path, path: Path, preset: str) -> bool:
    """Write an executed chapter as a page of the book, and return whether it is one."""
    try:
        if path.stem not in notebooks(source):
            raise FlatlibError("not a chapter of the book")
        page = run_page(source, read_notebook(path), path.stem, preset)
    except FlatlibError as error:
        print(f"not shown: {path} ({error})", file=sys.stderr)
        return False
    write(source / "book" / "runs" / preset / path.name, page)
    return True


def run_page(source: Path, notebook: dict[str, Any], name: str, preset: str) -> dict[str, Any]:
    """Return an executed chapter as a page without labels: those of the published page stay the only ones."""
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if output["output_type"] == "error":
            raise FlatlibError(f"stopped at {output['ename']}: {output['evalue']}")
    published = source / "book" / "claims" / f"{name}.ipynb"
    links = PageLinks(source, published, source / "book" / "runs" / preset)
    page = resolve(notebook, source, links, anchors=False)
    for cell in page["cells"]:
        cell["metadata"].get("mystnb", {}).pop("figure", None)
        cell["metadata"].pop(KEPT, None)  # it is a plain notebook from now on
    title, _, text = "".join(page["cells"][0]["source"]).partition("\n")
    note = f"> Your run at the preset `{preset}`. [The published page](../../claims/{name}.ipynb)."
    page["cells"][0]["source"] = f"{title}\n\n{note}\n{text}"
    return page | {"cells": [cell for cell in page["cells"] if cell.get("id") != "how-to-resolve"]}


def row(source: Path, path: Path, preset: str) -> str:
    """Return the row of a chapter in the table of its preset."""
    published = notebooks(source)[path.stem]
    title = "".join(read_notebook(published)["cells"][0]["source"]).partition("\n")[0].removeprefix("# ")
    own = verdict(path)
    return ROW.format(title=title, preset=preset, name=path.stem, own=own, published=verdict(published))


def verdict(path: Path) -> str:
    """Return the verdict of an executed chapter as a badge, with its scale."""
    texts = stored_texts(restore(read_notebook(path)))
    return f"[{texts['verdict']}]{{.verdict}} {texts['scale']}" if "verdict" in texts else "none"
