"""Every committed run, once, in columns: what the Explorer's scripts read."""

import math
from typing import Any

import pandas as pd

from flatlib.book import overview
from flatlib.book.explorer.axes import PEAK, SETTINGS, base, group, in_order, label
from flatlib.figures.axes import COLUMNS

FOREMOST = (
    "model",
    "optimizer",
    *COLUMNS,
)  # of the settings that vary, named first; the seed comes last
TRACKED = "Sharpness and sensitivity"  # the group whose largest value along training is worth an axis


def columns(tables: overview.Tables, titles: dict[str, str]) -> dict[str, Any]:
    """The runs of all records, and what the page needs to name and to compare them.

    Args:
        titles: of the chapters.

    Returns:
        - ``places``: chapter and scale of each record; ``varies``: for each of them, the settings that differ there.
        - ``chapters``: their titles. ``axes``: see `flatlib.book.explorer.axes.described`.
        - ``held``: for each level of `overview.HELD`, the settings that two runs of one place must share to be
          compared; null where any two runs are, of whatever place.
        - the runs: ``run_id``, ``status``, ``in`` (positions in ``places``), ``measures`` (null for what a run does
          not have) and ``settings``, each with its label, its ``values``, their ``names`` and each run's ``index``
          into them.
    """
    runs = overview.all_runs(tables)
    places = list(tables)
    position = pd.Series([places.index(place) for place in zip(runs["chapter"], runs["scale"], strict=True)])
    once = with_peaks(runs.drop_duplicates("run_id"))
    settings = chosen(once)
    measures = [name for name in once if base(name) in COLUMNS and name not in SETTINGS]
    return {
        "places": places,
        "varies": [varying(table, settings) for table in tables.values()],
        "chapters": {chapter: titles[chapter] for chapter, _ in places},
        "axes": in_order([*measures, *settings]),
        "held": {
            level: [name for name in held if name in settings] if held else None
            for level, held in overview.HELD.items()
        },
        "run_id": once["run_id"].tolist(),
        "status": once["status"].tolist(),
        "in": position.groupby(runs["run_id"], sort=False).apply(list).tolist(),
        "measures": {name: plain(once[name]) for name in measures},
        "settings": {name: {"label": label(name)} | encoded(once[name]) for name in settings},
    }


def with_peaks(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the largest value of each measure tracked along training: chapters on the course of training have
    no other sharpness."""
    tracked = [trajectory or {} for trajectory in runs["trajectory"]]
    names = dict.fromkeys(name for trajectory in tracked for name in trajectory)
    shown = [name for name in names if name in COLUMNS and group(name) == TRACKED]
    peaks = {PEAK + name: [largest(trajectory.get(name, [])) for trajectory in tracked] for name in shown}
    return runs.assign(**peaks)


def largest(values: list[float | None]) -> float:
    """NaN if there is none."""
    return max((value for value in values if value is not None), default=math.nan)


def chosen(runs: pd.DataFrame) -> list[str]:
    """The settings that are not at their default in every run."""
    usual = {name: "+".join(value) if isinstance(value, list) else value for name, value in SETTINGS.items()}
    return [name for name, value in usual.items() if any(run != value for run in plain(runs[name]))]


def varying(table: pd.DataFrame, settings: list[str]) -> list[str]:
    """The settings that differ among the runs of a table, in the order in which they are named."""
    names = [name for name in settings if table[name].nunique(dropna=False) > 1]
    return sorted(
        names, key=lambda name: FOREMOST.index(name) if name in FOREMOST else len(FOREMOST) + (name == "seed")
    )


def encoded(column: pd.Series) -> dict[str, list]:
    """The distinct values of a column, in ascending order with a missing one last, what to call each of them, and each
    row's place among them."""
    values = plain(column)
    distinct = [*sorted({value for value in values if value is not None}), *([None] if None in values else [])]
    names = [named(column.name, value) for value in distinct]
    return {"values": distinct, "names": names, "index": [distinct.index(value) for value in values]}


def named(setting: str, value: str | float | bool | None) -> str:
    """
    >>> named("learning_rate", 0.0125), named("batch_size", 0), named("max_updates", None), named("standardize", True)
    ('0.0125', 'all images', 'none', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in (None, ""):
        return "all" if setting in ("train_size", "test_size") else "none"
    if (setting, value) == ("batch_size", 0):
        return "all images"
    return value if isinstance(value, str) else f"{value:g}"


def plain(column: pd.Series) -> list:
    """A column as JSON's values, None for what is missing."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
