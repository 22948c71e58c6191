"""The Explorer's files that are made when the book is built, beside its own scripts in ``book/_static/explorer``."""

import json
import shutil
import textwrap
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from flatlib.book import overview
from flatlib.book.explorer.runs import columns
from flatlib.book.paths import notebooks
from flatlib.errors import FlatlibError
from flatlib.figures import TWO_COLUMNS, scatter, use_style

BOKEH = ("bokeh.min.js", "bokeh-api.min.js")  # copied from the installed package: the page needs no network
PANELS = 3  # in a row
TITLE = 22  # letters of a panel's title in a line


def write(root: Path, book: Path) -> None:
    """Write ``runs.js``, BokehJS and ``runs.svg`` into ``book/_static/explorer``.

    Args:
        root: the checkout, whose committed records are read.
        book: the copy of the book that is built.

    Raises:
        FlatlibError: no record, or BokehJS is not installed.
    """
    folder = book / "_static" / "explorer"
    tables = overview.published(root)
    titles = {chapter: title(path) for chapter, path in notebooks(root).items()}
    content = json.dumps(columns(tables, titles), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A script, because a page opened from disk may not read a JSON file.
    (folder / "runs.js").write_text(f"window.flatlibRuns = {content};\n", encoding="utf-8")
    for name in BOKEH:
        shutil.copy(bokeh_script(name), folder / name)
    runs = overview.all_runs(tables)
    draw(runs.assign(chapter=runs["chapter"].map(titles)), folder / "runs.svg")


def title(notebook: Path) -> str:
    """The number and the heading of a chapter; the heading is the first line of the notebook's first cell."""
    source = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    heading = source.partition("\n")[0].removeprefix("# ")
    return f"{int(notebook.stem.partition('_')[0])}. {heading}"


def bokeh_script(name: str) -> Path:
    """Where the installed package has a script of BokehJS."""
    try:
        path = Path(distribution("bokeh").locate_file(f"bokeh/server/static/js/{name}"))
    except PackageNotFoundError:
        raise FlatlibError("bokeh is not installed, and the book's Explorer draws with it: pip install bokeh") from None
    if not path.is_file():
        raise FlatlibError(f"{path} is missing; install bokeh again")
    return path


def draw(runs: pd.DataFrame, path: Path) -> None:
    """The picture for readers without scripts: accuracy against sharpness, a panel for each of the column `chapter`
    whose runs have both."""
    chapters = runs.dropna(subset=["lambda_max", "test_accuracy"]).groupby("chapter", sort=False)
    rows = -(-chapters.ngroups // PANELS)
    with plt.rc_context():
        use_style()
        figure, axes = plt.subplots(rows, PANELS, figsize=(TWO_COLUMNS, 2.1 * rows), squeeze=False)
        for ax, (name, of_chapter) in zip(axes.flat, chapters, strict=False):
            scatter(
                of_chapter.assign(chapter=textwrap.fill(name, TITLE)), "lambda_max", "test_accuracy", ax, by="chapter"
            )
        for ax in axes.flat[chapters.ngroups :]:
            ax.set_axis_off()
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
