"""A chapter at its parameters: the runs it needs, the records it reads and writes, and its verdict at every scale.

A chapter reads the committed records of its own folder and appends new runs to other files (in `_build/records/` by
default), so that a rerun never changes what is published.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.book import parameters
from flatlib.book.display import glue_texts, show_verdict
from flatlib.book.paths import find_root, notebook
from flatlib.claims import CLAIMS, Claim, claim_verdict, exclusions, format_verdicts, summarize
from flatlib.config import Execution, RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep


class Chapter:
    """One chapter at the parameters its notebook is run with.

    Attributes:
        claim: The claim it tests.
        parameters: The values of the parameters cell, checked and of the declared types.
        published: The committed records of the chapter, by preset.
        record: The file that new runs are appended to.
    """

    def __init__(self, claim: Claim, variables: Mapping[str, Any]) -> None:
        """Check the parameters.

        Args:
            claim: The claim of the chapter, which names its notebook.
            variables: The notebook's ``globals()`` after its parameters cell, or a value for every parameter.
        """
        root = find_root()
        self.claim, self.source = claim, notebook(root, claim.chapter)
        names = [*parameters.declared(self.source), *parameters.injected(variables)]
        if missing := [name for name in names if name not in variables]:
            raise FlatlibError(f"{claim.chapter}: parameters without a value: {', '.join(missing)}")
        given = {name: variables[name] for name in names}
        self.parameters = SimpleNamespace(**parameters.check(self.source, given))
        self.published = records.list_records(root / "book" / "records" / claim.chapter)
        folder = Path(self.parameters.records or root / "_build" / "records").resolve()
        if folder.is_relative_to(root / "book"):
            raise FlatlibError(f"records: {folder} is published; only flatlib refresh writes there")
        self.record = folder / claim.chapter / f"{self.parameters.preset}.jsonl"

    @classmethod
    def at_preset(cls, name: str, preset: str, given: Mapping[str, Any] | None = None) -> "Chapter":
        """Return the chapter `name` at the parameters of a preset, changed by those that are `given`."""
        source = notebook(find_root(), name)
        values = parameters.preset(find_root() / "book" / "presets" / preset / f"{name}.yaml")
        changed = parameters.check(source, {"preset": preset} | values | dict(given or {}))
        return cls(CLAIMS[name], parameters.defaults(source) | changed)

    @cached_property
    def execution(self) -> Execution:
        """Device, number of workers, scheduler and time limit of its runs."""
        p = self.parameters
        scheduler, time_limit = p.scheduler or None, p.time_limit or None
        return Execution(device=p.device, workers=p.workers, scheduler=scheduler, time_limit=time_limit)

    def run(self, configs: Iterable[RunConfig]) -> pd.DataFrame:
        """Return the table of these runs: recorded ones are read, missing ones are trained."""
        runs = sweep.run(configs, self.record, self.execution, known=list(self.published.values()))
        if (runs["status"] == "diverged").all():
            raise FlatlibError(f"all {len(runs)} runs diverged: there is nothing to show; lower the learning rates")
        return runs

    def recorded(self, configs: Iterable[RunConfig]) -> records.Lines:
        """Return the lines of the recorded runs among these, of its own and of the committed records."""
        return sweep.recorded([*self.published.values(), self.record], {config.run_id for config in configs})

    def requests(self) -> list[RunConfig]:
        """Return every run of the chapter; of one that tunes, its tuning runs only until all of these are recorded."""
        trials = self.claim.tuning(self.parameters)
        if not trials:
            return self.claim.experiment(self.parameters)
        lines = self.recorded(trials)
        if any(trial.run_id not in lines for trial in trials):
            return trials
        return trials + self.claim.experiment(self.parameters, records.table(lines[trial.run_id] for trial in trials))

    def chosen_later(self) -> list[RunConfig]:
        """Return the runs whose settings missing tuning runs choose, as if all of these were equally good."""
        trials = self.claim.tuning(self.parameters)
        if self.requests() != trials:
            return []
        equal = {"status": "reached", "measures": {"validation_accuracy": 0.0}, "trajectory": {}, "provenance": {}}
        lines = [{"run_id": trial.run_id, "config": trial.to_json()} | equal for trial in trials]
        return self.claim.experiment(self.parameters, records.table(lines))

    def report_exclusions(
        self, runs: pd.DataFrame, by: list[str], estimates: Iterable[str] = ("lambda_max",)
    ) -> pd.DataFrame:
        """Return how the runs of each setting (combination of `by`) ended.

        Glues ``n_runs``, ``n_reached``, ``n_capped``, ``n_diverged``; and over all the named estimates
        ``n_unconverged``, how many missed their tolerance, and ``worst_residual``, the largest relative residual.
        """
        endings = {f"n_{name}": (runs["status"] == name).sum() for name in ("reached", "capped", "diverged")}
        measured = [name for name in estimates if name in runs]
        missed = sum((~runs[f"{name}_converged"].dropna().astype(bool)).sum() for name in measured)
        relative = [(runs[f"{name}_residual"] / runs[name].abs()).max() for name in measured]
        worst = f"{max(relative):.1e}" if relative else "none"
        glue_texts(n_runs=len(runs), **endings, n_unconverged=missed, worst_residual=worst)
        return exclusions(runs, by)

    @cached_property
    def committed(self) -> dict[str, pd.DataFrame]:
        """The committed runs of every preset."""
        return {name: records.table(records.read(path).values()) for name, path in self.published.items()}

    def scales(self, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the runs at every scale: those of this page under its preset's name, then the other presets."""
        own = {self.parameters.preset: runs}
        return own | {name: table for name, table in self.committed.items() if name not in own}

    def verdicts(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the verdict table of this chapter's claim at every scale, with the scale in the first column."""
        judged = {scale: self.claim.verdicts(table) for scale, table in self.scales(runs).items()}
        return pd.concat(judged, names=["scale"]).reset_index("scale").reset_index(drop=True)

    def glue_verdicts(self, verdicts: pd.DataFrame, runs: pd.DataFrame) -> None:
        """Display the verdict as a card, and glue the texts that the command line quotes, at this page's scale.

        These are ``verdict`` (one word), ``verdict_sentence``, ``scale``, and for each prediction ``measured NAME`` and
        ``verdict NAME``.
        """
        mine = verdicts[verdicts["scale"] == self.parameters.preset]
        verdict, reason, scale = claim_verdict(mine), summarize(mine), describe(runs)
        show_verdict(self.claim.sentence, verdict, f"{self.parameters.preset}: {scale}", reason)
        texts = {"verdict": verdict, "verdict_sentence": reason, "scale": scale}
        for _, row in format_verdicts(mine).iterrows():
            texts |= {f"{column} {row['prediction']}": row[column] for column in ("measured", "verdict")}
        glue_texts(**texts)


def describe(runs: pd.DataFrame) -> str:
    """Return the scale of a table of runs in a few words: data, training images, networks, seeds."""
    first = runs.iloc[0]
    size = "all" if pd.isna(first["train_size"]) else f"{first['train_size']:g}"
    networks = ", ".join(dict.fromkeys(runs["model"]))
    return f"{first['dataset']}, {size} training images, {networks}, {runs['seed'].nunique()} seeds"
