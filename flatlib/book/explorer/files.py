"""The Explorer's files that the build makes, beside its own scripts in ``book/_static/explorer``."""

import json
import shutil
import textwrap
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from flatlib.book import overview
from flatlib.book.explorer.runs import columns
from flatlib.book.paths import notebooks
from flatlib.errors import FlatlibError
from flatlib.figures import TWO_COLUMNS, scatter, use_style

BOKEH = ("bokeh.min.js", "bokeh-api.min.js")  # copied from the installed package: the page needs no network
PANELS = 3  # in a row of the picture
TITLE = 22  # letters of a panel's title in a line


def write(root: Path, folder: Path) -> None:
    """Write ``runs.js``, BokehJS and ``runs.svg`` into `folder`.

    Args:
        root: the checkout, or the copy of it that is built, whose records are read.
        folder: where the page looks for them, ``_static/explorer`` of the built book.

    Raises:
        FlatlibError: no record, or BokehJS is not installed.
    """
    tables = overview.read_records(root)
    titles = {chapter: chapter_title(path) for chapter, path in notebooks(root).items()}
    content = json.dumps(columns(tables, titles), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    # A script, because a page opened from disk may not read a JSON file.
    (folder / "runs.js").write_text(f"window.flatlibRuns = {content};\n", encoding="utf-8")
    spec = find_spec("bokeh")
    if spec is None or spec.origin is None:
        raise FlatlibError("bokeh is not installed, and the book's Explorer draws with it: pip install bokeh")
    for name in BOKEH:
        shutil.copy(Path(spec.origin).parent / "server" / "static" / "js" / name, folder / name)
    runs = overview.all_runs(tables)
    draw(runs.assign(chapter=runs["chapter"].map(titles)), folder / "runs.svg")


def chapter_title(notebook: Path) -> str:
    """Return the number and the heading of a chapter; the heading is the first line of the notebook."""
    source = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    heading = source.partition("\n")[0].removeprefix("# ")
    return f"{int(notebook.stem.partition('_')[0])}. {heading}"


def draw(runs: pd.DataFrame, path: Path) -> None:
    """Draw the picture for readers without scripts: accuracy against sharpness, a panel for each chapter with both."""
    chapters = runs.dropna(subset=["lambda_max", "test_accuracy"]).groupby("chapter", sort=False)
    rows = -(-chapters.ngroups // PANELS)
    with plt.rc_context():
        use_style()
        figure, axes = plt.subplots(rows, PANELS, figsize=(TWO_COLUMNS, 2.1 * rows), squeeze=False)
        for ax in axes.flat[chapters.ngroups :]:
            ax.set_axis_off()
        for ax, (name, of_chapter) in zip(axes.flat, chapters, strict=False):
            titled = of_chapter.assign(chapter=textwrap.fill(name, TITLE))
            scatter(titled, "lambda_max", "test_accuracy", ax, by="chapter")
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        plt.close(figure)
