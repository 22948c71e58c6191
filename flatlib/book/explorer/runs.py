"""Columns of all committed runs, each once: the data of the Explorer's scripts."""

import math
from typing import Any

import pandas as pd

from flatlib.book import overview
from flatlib.book.explorer.axes import PEAK, SETTINGS, axes_of, base, group, label
from flatlib.figures.axes import COLUMNS

FIRST = ("model", "optimizer", *COLUMNS)  # of the settings that vary, named in this order; the seed comes last
TRACKED = "Sharpness and sensitivity"  # the group whose largest value along training is worth an axis


def columns(tables: overview.Tables, titles: dict[str, str]) -> dict[str, Any]:
    """Return the runs of all records, and the names that the page needs.

    Args:
        tables: of `flatlib.book.overview.read_records`.
        titles: of the chapters.

    Returns:
        ``places``, chapter and scale of each record; ``varies``, the settings that differ in each of them;
        ``chapters``, their titles; ``axes`` (see `flatlib.book.explorer.axes.axes_of`); ``held``, for each level of
        `overview.HELD` the settings that two runs of one place must share, null where any two runs are compared.
        Of the runs: ``run_id``, ``status``, ``in`` (positions in ``places``), ``measures`` (null if missing) and
        ``settings``, each with its label, its ``values``, their ``names`` and the ``index`` of each run's value.
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
            level: [name for name in held if name in settings] if held else None
            for level, held in overview.HELD.items()
        },
        "run_id": once["run_id"].tolist(),
        "status": once["status"].tolist(),
        "in": position.groupby(runs["run_id"], sort=False).apply(list).tolist(),
        "measures": {name: json_values(once[name]) for name in measures},
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
