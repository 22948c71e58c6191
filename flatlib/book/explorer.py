"""The Explorer, the book's page of all runs: its axes, its data in columns, and the files it reads.

A measure has up to three columns: at the end of training, at equal training loss (``lambda_max_at_loss``), and the
largest of those tracked along training (``peak_lambda_max``).
"""

import json
import math
import shutil
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from flatlib.book import overview, pooling
from flatlib.book.paths import notebooks
from flatlib.claims.versions import newest_version
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.figures import TWO_COLUMNS, scatter, use_style
from flatlib.figures.axes import COLUMNS
from flatlib.names import AT_LOSS

PEAK = "peak_"  # before a measure's name: its largest value along training
SETTINGS = {name: value for name, value in RunConfig().to_json().items() if name not in ("measures", "track")}
TITLES = {"dataset": "Data set", "model": "Network", "sam_batch": "SAM batch"}  # of settings that are no axis
PERFORMANCE = ("_accuracy", "_loss", "_gap")  # endings of names
CONTROLS = ("gradient_norm", "weight_norm", "margin", "margin_low", "updates", "update")
TRACKED = "Sharpness and sensitivity"  # the group whose largest value along training is worth an axis
GROUPS = ("Performance", TRACKED, "Controls", "Largest along training", "At equal training loss", "Settings")
SYMBOLS = {r"\lambda": "λ", r"\eta": "η", r"\rho": "ρ", r"\gamma": "γ", r"\alpha": "α"} | {
    **{r"\Vert ": "‖", r"\Vert": "‖", r"\max": "max", r"\min": "min", r"\mathrm": "", r"\,": " ", "^2": "²"},
    **dict.fromkeys("${}", ""),
}  # LaTeX -> plain text
FIRST = ("model", "optimizer", *COLUMNS)  # of the settings that vary, named in this order; the seed comes last
BOKEH = ("bokeh.min.js", "bokeh-api.min.js")  # copied from the installed package: the page needs no network
PANELS = 3  # in a row of the picture
TITLE = 22  # letters of a panel's title in a line


def write(root: Path, folder: Path) -> None:
    """Write ``runs.js``, BokehJS and ``runs.svg``, made from the records below `root`, into `folder`.

    Raises:
        FlatlibError: No record, or BokehJS is not installed.
    """
    tables = overview.read_records(root)
    titles = {chapter: chapter_title(path) for chapter, path in notebooks(root).items()}
    content = json.dumps(columns(tables, titles), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    # A script, because a page opened from disk may not read a JSON file.
    (folder / "runs.js").write_text(f"window.flatlibRuns = {content};\n", encoding="utf-8")
    if (spec := find_spec("bokeh")) is None or spec.origin is None:
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


def columns(tables: overview.Tables, titles: dict[str, str]) -> dict[str, Any]:
    """Return the runs of all records, and the names that the page needs, given the title of each chapter.

    Returns:
        ``places``, chapter and scale of each record; ``varies``, the settings that differ in each of them;
        ``chapters``, their titles; ``axes`` (see `axes_of`); ``held``, for each level of
        `pooling.HELD` the settings that two runs of one place must share, null where any two runs are compared.
        Of the runs: ``run_id``, ``status``, ``in`` (positions in ``places``), ``measures`` (null if missing, or of
        another than the newest version) and ``settings``, each with its label, its ``values``, their ``names`` and the
        ``index`` of each run's value.
    """
    runs = overview.all_runs(tables)
    places = list(tables)
    position = pd.Series([places.index(place) for place in zip(runs["chapter"], runs["scale"], strict=True)])
    once = with_peaks(runs.drop_duplicates("run_id"))
    settings = used_settings(once)
    measures = [name for name in once if base(name) in COLUMNS and name not in SETTINGS]
    return {
        "places": places,
        "varies": [varying(table, settings) for table in tables.values()],
        "chapters": {chapter: titles[chapter] for chapter, _ in places},
        "axes": axes_of([*measures, *settings]),
        "held": {
            level: [name for name in held if name in settings] if held else None for level, held in pooling.HELD.items()
        },
        "run_id": once["run_id"].tolist(),
        "status": once["status"].tolist(),
        "in": position.groupby(runs["run_id"], sort=False).apply(list).tolist(),
        "measures": {name: json_values(newest_version(once, name)) for name in measures},
        "settings": {name: {"label": label(name)} | encode(once[name]) for name in settings},
    }


def with_peaks(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the largest value of each tracked measure: chapters on the course of training have no other sharpness."""
    tracked = [trajectory or {} for trajectory in runs["trajectory"]]
    names = dict.fromkeys(name for trajectory in tracked for name in trajectory)
    shown = [name for name in names if name in COLUMNS and group(name) == TRACKED]
    values = {name: [[v for v in of_run.get(name, []) if v is not None] for of_run in tracked] for name in shown}
    return runs.assign(**{PEAK + name: [max(run, default=math.nan) for run in values[name]] for name in shown})


def used_settings(runs: pd.DataFrame) -> list[str]:
    """Return the settings that are not at their default in every run."""
    usual = {name: "+".join(value) if isinstance(value, list) else value for name, value in SETTINGS.items()}
    return [name for name, value in usual.items() if any(run != value for run in json_values(runs[name]))]


def varying(table: pd.DataFrame, settings: list[str]) -> list[str]:
    """Return the settings that differ among the runs of a table, in the order in which they are named."""
    names = [name for name in settings if table[name].nunique(dropna=False) > 1]
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST) + (name == "seed"))


def encode(column: pd.Series) -> dict[str, list]:
    """Return a column's distinct values in ascending order, a missing one last, their names, and each row's index."""
    values = json_values(column)
    distinct = [*sorted({value for value in values if value is not None}), *([None] if None in values else [])]
    names = [value_name(str(column.name), value) for value in distinct]
    return {"values": distinct, "names": names, "index": [distinct.index(value) for value in values]}


def value_name(setting: str, value: str | float | bool | None) -> str:
    """Return the name of a value in plain text.

    >>> [value_name(*pair) for pair in (("learning_rate", 0.0125), ("batch_size", 0), ("standardize", True))]
    ['0.0125', 'all images', 'yes']
    >>> value_name("train_size", None), value_name("max_updates", None), value_name("augmentation", "")
    ('all', 'none', 'none')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "all" if setting in ("train_size", "test_size") else "none"
    if (setting, value) == ("batch_size", 0):
        return "all images"
    return value if isinstance(value, str) else f"{value:g}"


def json_values(column: pd.Series) -> list:
    """Return a column as JSON's values, None for a missing one."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def base(name: str) -> str:
    """Return the measure of a column.

    >>> base("peak_lambda_max"), base("trace_at_loss"), base("trace")
    ('lambda_max', 'trace', 'trace')
    """
    return name.removeprefix(PEAK).removesuffix(AT_LOSS)


def axes_of(names: list[str]) -> list[dict[str, Any]]:
    """Return the axes among the columns `names`, in the order of `GROUPS` and of `COLUMNS`.

    Each is a dictionary of its name, group, label and unit, whether it is logarithmic (``log``), and the factor of
    values where they are drawn (``multiplier``).
    """
    axes = []
    for known, column in COLUMNS.items():
        drawn = {"unit": column.unit, "log": column.scale == "log", "multiplier": column.multiplier}
        of_column = [name for name in names if base(name) == known]
        axes += [{"name": name, "group": group(name), "label": label(name)} | drawn for name in of_column]
    return sorted(axes, key=lambda axis: GROUPS.index(axis["group"]))


def group(name: str) -> str:
    """Return the one of `GROUPS` that a column belongs to."""
    if name in SETTINGS:
        return "Settings"
    if name.startswith(PEAK):
        return "Largest along training"
    if name.endswith(AT_LOSS):
        return "At equal training loss"
    if name.endswith(PERFORMANCE):
        return "Performance"
    return "Controls" if name in CONTROLS else TRACKED


def label(name: str) -> str:
    """Return a column's name and symbol in plain text.

    >>> label("frobenius_at_loss"), label("peak_lambda_max"), label("weight_decay_kind")
    ('Frobenius norm ‖H‖_F, at equal loss', 'Sharpness λ_max, largest', 'Weight decay kind')
    """
    if base(name) not in COLUMNS:
        return TITLES.get(name, name.replace("_", " ").capitalize())
    column = COLUMNS[base(name)]
    symbol = column.symbol
    for latex, letters in SYMBOLS.items():
        symbol = symbol.replace(latex, letters)
    when = ", at equal loss" * name.endswith(AT_LOSS) + ", largest" * name.startswith(PEAK)
    return f"{column.name} {symbol}".strip() + when
