"""An executed notebook that stands on its own: what only the book resolves is put into the text as plain Markdown.

The source of the book is MyST Markdown: it quotes values that cells have stored, cites works and refers to figures. The
book shows what they stand for; other readers of notebooks show their markup. A resolved notebook shows the same
everywhere, and keeps its source in the metadata of its cells, from which `restore` returns it.
"""

import ast
import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from flatlib.book.citations import citer
from flatlib.book.display import GLUE_PREFIX
from flatlib.book.page_links import PageLinks
from flatlib.book.paths import find_root, read_notebook
from flatlib.book.plain_markdown import Context, caption, plain
from flatlib.errors import FlatlibError

Cell = dict[str, Any]
KEPT = "flatlib"  # the key of a cell's metadata with what it was before
RECORD = f"{GLUE_PREFIX}text/plain"  # of a stored text
FOLDED = {"remove-input", "hide-input", "remove-cell", "hide-cell"}
NOTE = (
    "*The numbers in this text are those that the cells below have stored. After running them again, "
    "`flatlib resolve` puts the new ones in.*"
)


def resolve_file(path: Path, output: Path | None = None) -> Path:
    """Resolve an executed notebook in place, or into `output`, and return the file that was written.

    Raises:
        FlatlibError: Not a notebook, one that was not executed to its end, or a file of the book's own sources.
    """
    root, target = find_root(), (output or path).resolve()
    if target.is_relative_to(root / "book"):
        raise FlatlibError(f"{target.name}: a source of the book stays as it is; name another file with --output")
    notebook = read_notebook(path)
    folder = target.parent if target.is_relative_to(root) else None
    links = PageLinks(root, source_page(root, path, notebook), folder)
    write(target, resolve(notebook, root, links))
    return target


def source_page(root: Path, path: Path, notebook: dict[str, Any]) -> Path | None:
    """Return the page of the book that a notebook is a copy of: itself, that of its name, or papermill's input."""
    if path.resolve().is_relative_to(root / "book"):
        return path.resolve()
    source = notebook["metadata"].get("papermill", {}).get("input_path") or ""
    pages = {page.name: page for page in (root / "book").rglob("*.ipynb")}
    return pages.get(path.name) or pages.get(Path(source).name)


def write(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FlatlibError(f"{path}: cannot be written ({error.strerror})") from None


def resolve(notebook: dict[str, Any], root: Path, links: PageLinks, anchors: bool = True) -> dict[str, Any]:
    """Return a copy of an executed notebook with its markup resolved; a resolved one is resolved again.

    Values, citations, captions and figure numbers stand in the text. Cells that the book hides are folded. What is
    shown nowhere is dropped from the outputs: stored values, and all but the last state of progress bars.

    Args:
        notebook: Its JSON.
        root: The checkout, for its bibliography.
        links: Links to other pages.
        anchors: Whether figures and labelled sections get HTML anchors.
    """
    notebook = restore(notebook)
    cite = citer(root / "book" / "references.bib")
    context = Context(stored_texts(notebook), figure_numbers(notebook), cite, links, anchors)
    cells = [part for cell in notebook["cells"] for part in resolve_cell(cell, context)]
    if context.texts:
        cells.insert(1, added("how-to-resolve", NOTE))
    return notebook | {"cells": cells}


def restore(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a resolved notebook as it was; a text that was edited since, or a cell run again, stays."""
    notebook = copy.deepcopy(notebook)
    cells = [cell for cell in notebook["cells"] if cell["metadata"].get(KEPT) != "added"]
    for cell in cells:
        kept = cell["metadata"].pop(KEPT, {})
        for part in ("source", "outputs"):
            if part in kept and digest(cell[part]) == kept["resolved"]:
                cell[part] = kept[part]
        if folded(cell):
            cell["metadata"].pop("jupyter", None)
            cell["metadata"].pop("cellView", None)
    return notebook | {"cells": cells}


def digest(part: Any) -> str:
    """Return a hash of a source or of outputs, whether their texts are lists of lines or not."""

    def joined(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: joined(value) for key, value in item.items()}
        if isinstance(item, list):
            return "".join(item) if all(isinstance(line, str) for line in item) else [joined(value) for value in item]
        return item

    return hashlib.sha256(json.dumps(joined(part), sort_keys=True).encode()).hexdigest()[:16]


def text_of(cell: Cell) -> str:
    """Return the source of a cell."""
    return "".join(cell["source"])


def stored_texts(notebook: dict[str, Any]) -> dict[str, str]:
    """Return the texts that the cells of a notebook have glued, by name."""
    texts = {}
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name and RECORD in output["data"]:
            texts[name] = str(ast.literal_eval("".join(output["data"][RECORD])))
    return texts


def figure_numbers(notebook: dict[str, Any]) -> dict[str, int]:
    """Return the number of every figure of a notebook, by name, in the order of the page."""
    names = []
    for cell in notebook["cells"]:
        name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        names += [name] if name else []
        if cell["cell_type"] == "markdown":
            names += re.findall(r"^`{3,}\{glue:figure\}.*\n:name: *(\S+)$", text_of(cell), re.MULTILINE)
    return {name: number for number, name in enumerate(names, start=1)}


def resolve_cell(cell: Cell, context: Context) -> list[Cell]:
    """Return a cell with its markup resolved, and its caption if it draws a figure."""
    if cell["cell_type"] == "markdown":
        text = plain(text_of(cell), context)
        if text != text_of(cell):
            cell["metadata"][KEPT] = {"source": cell["source"], "resolved": digest(text)}
            cell["source"] = text
        return [cell]
    if cell["cell_type"] != "code":
        return [cell]
    resolve_outputs(cell, context)
    if folded(cell):
        cell["metadata"] |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's word, and Colab's
    about = cell["metadata"].get("mystnb", {}).get("figure", {})
    if not {"name", "caption"} <= set(about):
        return [cell]
    text = caption(about["name"], plain(about["caption"], context), context)
    return [cell, added(f"caption-{about['name']}"[:64], text)]


def folded(cell: Cell) -> bool:
    """Return whether the book hides the source of a cell."""
    return bool(FOLDED & set(cell["metadata"].get("tags", [])))


def added(name: str, text: str) -> Cell:
    """Return a Markdown cell that `restore` takes away."""
    return {"cell_type": "markdown", "id": name, "metadata": {KEPT: "added"}, "source": text}


def resolve_outputs(cell: Cell, context: Context) -> None:
    """Drop outputs that nothing shows, put progress on one line, and resolve Markdown."""
    shown = [output for output in cell["outputs"] if RECORD not in output.get("data", {})]
    progress = final_lines("".join(text for output in shown if is_progress(output) for text in output["text"]))
    outputs = [copy.deepcopy(output) for output in shown if not is_progress(output)]
    if progress:
        outputs.insert(0, {"output_type": "stream", "name": "stdout", "text": progress})
    for output in outputs:
        if "text/markdown" in output.get("data", {}):
            output["data"]["text/markdown"] = plain("".join(output["data"]["text/markdown"]), context)
    if outputs != cell["outputs"]:
        cell["metadata"][KEPT] = {"outputs": cell["outputs"], "resolved": digest(outputs)}
        cell["outputs"] = outputs


def is_progress(output: dict[str, Any]) -> bool:
    """Return whether an output is a piece of stderr."""
    return output["output_type"] == "stream" and output["name"] == "stderr"


def final_lines(text: str) -> str:
    """Return what a terminal shows of a text in the end: a carriage return starts its line again.

    >>> final_lines("\\r1 of 2\\r2 of 2\\ndone\\n")
    '2 of 2\\ndone\\n'
    """
    lines = [next(filter(str.strip, reversed(line.split("\r"))), "") for line in text.split("\n")]
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())
