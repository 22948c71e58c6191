"""What a chapter asks for: its notebook's cells up to the last that trains, answered without training.

A chapter is a program, and its settings are what its cells make of its parameters. So the cells are executed, and
`Chapter.run` is given the runs that are recorded, and imagined ones in the place of those that are missing.
"""

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pandas as pd

from flatlib.book.chapter import ANSWER, Chapter
from flatlib.book.paths import notebook
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError, explained
from flatlib.runs import records, sweep


@dataclass(frozen=True)
class Call:
    """One call of `Chapter.run`: the configurations, as given, and the lines of those that are recorded."""

    configs: list[RunConfig]
    recorded: records.Lines

    @property
    def missing(self) -> dict[str, RunConfig]:
        """What would be trained, by run_id."""
        return {config.run_id: config for config in self.configs if config.run_id not in self.recorded}


@dataclass(frozen=True)
class Asked:
    """What a chapter asks for at its parameters.

    Attributes:
        parameters: the chapter's, checked.
        paths: the records that the chapter reads, the one it would append to last; none need be there.
        calls: every call of `Chapter.run`.
        settled: how many of the calls ask for the same whatever the missing runs will show; a later call may train
            what an earlier one chose.
    """

    parameters: SimpleNamespace
    paths: list[Path]
    calls: list[Call]
    settled: int

    @property
    def configs(self) -> dict[str, RunConfig]:
        """Every run by run_id."""
        return {config.run_id: config for call in self.calls for config in call.configs}

    @property
    def missing(self) -> dict[str, RunConfig]:
        """What would be trained, by run_id."""
        return {run_id: config for call in self.calls for run_id, config in call.missing.items()}

    @property
    def chosen_later(self) -> dict[str, RunConfig]:
        """The part of `missing` that other runs may replace, once those are recorded that it is chosen by."""
        sure = {run_id for call in self.calls[: self.settled] for run_id in call.missing}
        return {run_id: config for run_id, config in self.missing.items() if run_id not in sure}


def asked(root: Path, name: str, values: dict[str, Any]) -> Asked:
    """What the chapter `name` asks for at parameters that `flatlib.book.execute.settings` has checked; trains nothing."""
    chapter, calls = dry_run(root, name, values, rising)
    settled = len(calls)
    if any(call.missing for call in calls[:-1]):  # then what is chosen by these may come out otherwise
        _, others = dry_run(root, name, values, falling)
        same = [call.configs == other.configs for call, other in zip(calls, others, strict=False)]
        settled = [*same, False].index(False)
    return Asked(chapter.parameters, chapter.records, calls, settled)


def dry_run(root: Path, name: str, values: dict[str, Any], score: Callable[[int], float]) -> tuple[Chapter, list[Call]]:
    """The chapter and its calls; the imagined run number i of a call has the accuracy score(i)."""
    calls: list[Call] = []

    def answer(chapter: Chapter, configs: list[RunConfig]) -> pd.DataFrame:
        wanted = {config.run_id: config for config in configs}
        recorded = sweep.recorded(chapter.records, wanted)
        calls.append(Call(configs, recorded))
        imagined = {run_id: line(config, score(i)) for i, (run_id, config) in enumerate(wanted.items())}
        return records.table((imagined | recorded)[run_id] for run_id in wanted)

    cells = [cell for cell in nbformat.read(notebook(root, name), 4).cells if cell.cell_type == "code"]
    last = max(place for place, cell in enumerate(cells) if "chapter.run(" in cell.source)
    token = ANSWER.set(answer)
    try:
        with plt.rc_context(), contextlib.redirect_stdout(io.StringIO()), explained("a cell failed"):
            names = executed(cells[: last + 1], name, values)
    except FlatlibError as error:
        raise FlatlibError(f"{name}: {error}") from error
    finally:
        ANSWER.reset(token)
    return names["chapter"], calls


def executed(cells: Iterable[nbformat.NotebookNode], name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The variables that code cells leave, executed in this process with `values` in place of those of the cell tagged
    ``parameters``; `name` stands in tracebacks."""
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile(cell.source, name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= values
    return names


def line(config: RunConfig, score: float) -> records.Line:
    """A line of a run that was not made, with what a page chooses its next runs by."""
    known = {"measures": {"validation_accuracy": score}, "trajectory": {}, "provenance": {}}
    return {"run_id": config.run_id, "config": config.to_json(), "status": "reached"} | known


def rising(place: int) -> float:
    """An accuracy by which the last of several settings is the best."""
    return 1 - 1 / (2 + place)


def falling(place: int) -> float:
    """An accuracy by which the first is."""
    return 1 / (2 + place)
