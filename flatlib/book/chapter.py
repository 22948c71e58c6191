"""What a chapter's notebook stands on: its parameters, its records, its runs, the scales it can be judged at.

A chapter reads the committed records of its own folder and writes what it has to train elsewhere (`_build/records/`
unless told otherwise), so that a rerun never changes what is published. Only `flatlib refresh` lets it write there.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.book import parameters
from flatlib.book.display import glue_texts
from flatlib.book.paths import find_root, notebook
from flatlib.claims import CLAIMS, Claim, claim_verdict, exclusions, format_verdicts, sentence
from flatlib.config import Execution, RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep

REFRESH = "FLATLIB_REFRESH"  # set by `flatlib refresh`: a file that collects the run_ids a chapter asks for
ANSWER: ContextVar[Callable[["Chapter", list[RunConfig]], pd.DataFrame] | None] = ContextVar("ANSWER", default=None)
"""Set by a dry run (`flatlib.book.dry_run`): what answers `Chapter.run` where nothing is to be trained."""


class Chapter:
    """One chapter at the parameters its notebook was run with.

    Attributes:
        parameters: the values of the parameters cell, checked and of the declared types.
        claim: the claim it tests.
    """

    def __init__(self, name: str, variables: Mapping[str, Any]) -> None:
        """`variables` is the notebook's ``globals()`` after its parameters cell."""
        self.root = find_root()
        self.name = name
        source = notebook(self.root, name)
        known = parameters.declared(source)
        stray = [key for key, value in variables.items() if plain(key, value) and key not in known]
        given = {key: variables[key] for key in known if key in variables} | {key: variables[key] for key in stray}
        self.parameters = SimpleNamespace(**parameters.check(source, given))
        self.claim: Claim = CLAIMS[name]

    @property
    def published(self) -> dict[str, Path]:
        """The committed records of this chapter, by preset."""
        return records.in_folder(self.root / "book" / "records" / self.name)

    @property
    def record(self) -> Path:
        """The record this run appends to."""
        values = self.parameters
        if REFRESH in os.environ:
            return self.root / "book" / "records" / self.name / f"{values.preset}.jsonl"
        folder = Path(values.records or self.root / "_build" / "records").resolve()
        if folder.is_relative_to(self.root / "book"):
            raise FlatlibError(f"records: {folder} is published; only flatlib refresh writes there")
        return folder / self.name / f"{values.preset}.jsonl"

    @property
    def records(self) -> list[Path]:
        """The records this run reads: the committed ones, then its own."""
        return [*self.published.values(), self.record]

    def run(self, configs: Iterable[RunConfig]) -> pd.DataFrame:
        """The table of these runs: read where they are recorded, trained where they are not."""
        configs = list(configs)
        answer = ANSWER.get()
        if answer is not None:
            return answer(self, configs)
        values = self.parameters
        if REFRESH in os.environ:
            with Path(os.environ[REFRESH]).open("a") as asked:
                asked.writelines(f"{config.run_id}\n" for config in configs)
        execution = Execution(
            device=values.device,
            workers=values.workers,
            scheduler=values.scheduler or None,
            time_limit=values.time_limit or None,
        )
        runs = sweep.run(configs, self.record, execution, known=list(self.published.values()))
        if (runs["status"] == "diverged").all():
            raise FlatlibError(f"all {len(runs)} runs diverged: there is nothing to show; lower the learning rates")
        return runs

    def report_exclusions(
        self, runs: pd.DataFrame, by: list[str], estimates: Iterable[str] = ("lambda_max",)
    ) -> pd.DataFrame:
        """How the runs of each setting (combination of `by`) ended. Glues ``n_runs``, ``n_reached``, ``n_capped``,
        ``n_diverged``; and over all these estimates ``n_unconverged``, how many missed their tolerance, and
        ``worst_residual``, the largest residual relative to its value."""
        status = runs["status"].value_counts()
        endings = {f"n_{name}": status.get(name, 0) for name in ("reached", "capped", "diverged")}
        measured = [name for name in estimates if name in runs]
        missed = sum((~runs[f"{name}_converged"].dropna().astype(bool)).sum() for name in measured)
        relative = [(runs[f"{name}_residual"] / runs[name].abs()).max() for name in measured]
        worst = f"{max(relative):.1e}" if relative else "none"
        glue_texts(n_runs=len(runs), **endings, n_unconverged=missed, worst_residual=worst)
        return exclusions(runs, by)

    def scales(self, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The runs at every scale there is: those of this page first, under its preset's name, then the committed
        records of the other presets."""
        mine = self.parameters.preset
        others = {name: path for name, path in self.published.items() if name != mine}
        return {mine: runs} | {name: records.table(records.read(path).values()) for name, path in others.items()}

    def verdicts(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The verdict table of this chapter's claim at every scale, with the scale in the first column."""
        judged = {scale: self.claim.verdicts(table) for scale, table in self.scales(runs).items()}
        return pd.concat(judged, names=["scale"]).reset_index("scale").reset_index(drop=True)

    def glue_verdicts(self, verdicts: pd.DataFrame, runs: pd.DataFrame) -> None:
        """Glue what other pages and the command line quote: ``verdict`` (one word), ``verdict_sentence``, ``scale``,
        and for each prediction ``measured NAME`` and ``verdict NAME``, all at this page's scale."""
        mine = verdicts[verdicts["scale"] == self.parameters.preset]
        shown = format_verdicts(mine).set_index("prediction")
        texts = {"verdict": claim_verdict(mine), "verdict_sentence": sentence(mine), "scale": describe(runs)}
        for name, row in shown.iterrows():
            texts |= {f"measured {name}": row["measured"], f"verdict {name}": row["verdict"]}
        glue_texts(**texts)


def describe(runs: pd.DataFrame) -> str:
    """The scale of a table of runs in a few words: data, training images, networks, seeds."""
    first = runs.iloc[0]
    size = "all" if pd.isna(first["train_size"]) else f"{first['train_size']:g}"
    networks = ", ".join(dict.fromkeys(runs["model"]))
    return f"{first['dataset']}, {size} training images, {networks}, {runs['seed'].nunique()} seeds"


def plain(name: str, value: Any) -> bool:
    """Whether a notebook variable looks like a parameter: a public name that holds plain data.

    papermill writes a misspelt parameter into the notebook like any other; this is how it is told apart from
    modules and functions.
    """
    history = name in ("In", "Out")  # IPython's own
    return not name.startswith("_") and not history and isinstance(value, (str, int, float, bool, list, dict))
