"""From configurations to records: what is recorded is skipped, the rest is trained, and every finished run is kept.

Only the driver writes. A worker sends its line back when a run is done; the driver appends it before anything else
happens, so that an interrupt costs the runs that were under way and no more.
"""

import contextlib
import time
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from flatlib.config import Execution, RunConfig
from flatlib.device import resolve
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.executors import outcomes
from flatlib.runs.lock import locked
from flatlib.runs.priority import complete_seeds_first, previously_failed
from flatlib.runs.provenance import provenance
from flatlib.runs.records import Line
from flatlib.training.data import load
from flatlib.training.train import train

__all__ = ["run"]


def run(
    configs: Iterable[RunConfig],
    record: Path | str,
    execution: Execution | None = None,
    *,
    known: Sequence[Path] = (),
) -> pd.DataFrame:
    """Train every configuration that is not recorded yet; the table of all of them, in the order given.

    They are trained a whole seed at a time, the one nearest to complete first, so that what is recorded when time is up
    makes as many complete seeds as it can. What failed before, or had as much time as there is now and was not done,
    comes last (`flatlib.runs.priority`).

    Args:
        configs: what to train; a configuration that is listed twice is trained once.
        record: the file to read and to append to. It is written only if there is something to train.
        execution: where, how wide and for how long; by default here, one at a time.
        known: further records to read, and only to read (the published ones).

    Raises:
        FlatlibError: bad input, a record that another process is writing to, runs that failed (each with its error in
            `records.failures`), or a time limit that came first; whatever had finished by then is in the record.
    """
    execution = execution or Execution()
    record = Path(record)
    wanted = {config.run_id: config for config in configs}
    if not wanted:
        raise FlatlibError("nothing to run: the list of configurations is empty")
    lines = recorded((*map(Path, known), record), wanted)
    if len(lines) < len(wanted):
        resolve(execution.device)
        first = next(config for run_id, config in wanted.items() if run_id not in lines)
        load(first, resolve("cpu"), execution.data)  # an absent data set is one clear error, before any worker starts
        with locked(record):
            lines = recorded([record], wanted) | lines  # whoever had the record until now may have added to it
            missing = complete_seeds_first(
                (config for run_id, config in wanted.items() if run_id not in lines),
                last=previously_failed(record, execution.time_limit),
            )
            if missing:
                lines |= train_missing(missing, len(wanted), record, execution)
    return records.table(lines[run_id] for run_id in wanted)


def recorded(paths: Iterable[Path], wanted: Container[str]) -> records.Lines:
    """The lines with the wanted run_ids; where several records have one, that of the first."""
    lines: records.Lines = {}
    for path in paths:
        for run_id, line in records.read(path).items():
            if run_id in wanted:
                lines.setdefault(run_id, line)
    return lines


def train_missing(missing: list[RunConfig], total: int, record: Path, execution: Execution) -> records.Lines:
    """Train `missing`, append each line as it comes, show progress, and report failures once all are through."""
    done: records.Lines = {}
    failures: dict[str, str] = {}
    stream = outcomes(missing, execution, run_one)
    bar = tqdm(
        total=total,
        initial=total - len(missing),
        desc=f"{record.parent.name} {record.stem}",
        unit="run",
        disable=not execution.progress,
        bar_format="{desc}: {n_fmt} of {total_fmt} runs done{postfix} |{bar:24}| {elapsed} spent, {remaining} to go",
    )
    with contextlib.closing(stream), bar:
        bar.set_postfix_str(f"{len(missing)} left")
        for config, outcome in stream:
            if isinstance(outcome, Exception):
                reason = (str(outcome).splitlines() or [type(outcome).__name__])[0]
                failures[config.run_id] = reason
                records.append_failure(record, config, f"{type(outcome).__name__}: {reason}")
                if isinstance(outcome, torch.AcceleratorError):  # every later call of its process would fail as well
                    raise FlatlibError(f"a GPU failed ({reason}); what has finished is recorded, run again to go on")
            else:
                records.append(record, outcome)
                done[config.run_id] = outcome
            bar.set_postfix_str(f"{len(missing) - len(done) - len(failures)} left", refresh=False)
            bar.update()
    too_long = [] if execution.scheduler else missing[: execution.workers]  # they had all the time there was
    too_long = [config for config in too_long if config.run_id not in done | failures]
    for config in too_long:
        records.append_failure(record, config, "not done when time was up", seconds=execution.time_limit)
    if failures:
        first = ": ".join(next(iter(failures.items())))
        raise FlatlibError(f"{len(failures)} of {len(missing)} runs failed (the others are recorded); {first}")
    if len(done) < len(missing):
        longer = f" ({len(too_long)} had all of it, and come last from now on)" if too_long else ""
        raise FlatlibError(
            f"the time limit of {round(execution.time_limit, 1):g} s is over: {total - len(missing) + len(done)} of "
            f"{total} runs are recorded{longer}; the same command goes on from there"
        )
    return done


def run_one(config: RunConfig, device: str, data: Path | None) -> Line:
    """Train and measure one configuration; its line of the record."""
    started = time.perf_counter()
    trained = train(config, device=device, data=data)
    about = provenance(trained.data.x_train.device) | {"data": trained.data.fingerprint}
    return records.finite(
        {
            "run_id": config.run_id,
            "config": config.to_json(),
            "status": trained.status,
            "measures": trained.measures,
            "trajectory": trained.trajectory,
            "provenance": about | {"seconds": round(time.perf_counter() - started, 2)},
        }
    )
