"""Sweeps: recorded runs are skipped, missing ones are trained, and every finished one is appended to the record.

Only the process that calls `run` writes. It appends the line of a finished run before anything else happens, so that
an interrupt costs the runs in progress and no more.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from flatlib.config import Execution, RunConfig
from flatlib.device import resolve
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.executors import RunOne, execute, run_one
from flatlib.runs.lock import locked
from flatlib.runs.priority import complete_seeds_first, previously_failed
from flatlib.training.data import load

__all__ = ["run"]


def run(
    configs: Iterable[RunConfig],
    record: Path | str,
    execution: Execution | None = None,
    *,
    known: Sequence[Path] = (),
    run_one: RunOne = run_one,
) -> pd.DataFrame:
    """Train every configuration that is not recorded yet, and return the table of all of them, in the order given.

    They are trained a whole seed at a time, the one nearest to complete first, so that a time limit leaves as many
    complete seeds as possible. A run that failed before, or was not done within as much time as there is now, comes
    last (`flatlib.runs.priority`). A script that uses several workers or a time limit calls this under
    ``if __name__ == "__main__":``, because worker processes import it.

    Args:
        configs: The runs; a configuration that is listed twice is trained once.
        record: The file to read and to append to. It is written only if a run is missing.
        execution: Where, how many at a time and for how long; by default here, one at a time.
        known: Further records, which are only read (such as the published ones).
        run_one: Trains a configuration and returns its line; workers must be able to import it.

    Raises:
        FlatlibError: For bad input, a record that another process is writing to, runs that failed (their errors are
            in `records.failures`), and a time limit that came first; every run that has finished is in the record.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that imports an unguarded script
        sys.exit(1)  # quietly: `execute` reports it, once
    execution = execution or Execution()
    record = Path(record)
    wanted = {config.run_id: config for config in configs}
    if not wanted:
        raise FlatlibError("nothing to run: the list of configurations is empty")
    lines = recorded((*map(Path, known), record), wanted)
    if len(lines) < len(wanted):
        resolve(execution.device)
        first = next(config for run_id, config in wanted.items() if run_id not in lines)
        load(first, resolve("cpu"), execution.data)  # a missing data set is one clear error, before any worker starts
        with locked(record):
            records.check_writable(record)
            lines = recorded([record], wanted) | lines  # another process may have added to it until now
            missing = complete_seeds_first(
                (config for run_id, config in wanted.items() if run_id not in lines),
                last=previously_failed(record, execution.time_limit),
            )
            if missing:
                lines |= train_missing(missing, len(wanted), record, execution, run_one)
    return records.table(lines[run_id] for run_id in wanted)


def recorded(paths: Iterable[Path], wanted: Container[str]) -> records.Lines:
    """Return the lines with the wanted run_ids; where several records have one, that of the first."""
    lines: records.Lines = {}
    for path in paths:
        lines = {run_id: line for run_id, line in records.read(path).items() if run_id in wanted} | lines
    return lines


def train_missing(
    missing: list[RunConfig], total: int, record: Path, execution: Execution, run_one: RunOne
) -> records.Lines:
    """Train `missing`, append each line as it comes, show progress, and report failures at the end."""
    done: records.Lines = {}
    failures: dict[str, str] = {}
    stream = execute(missing, execution, run_one)
    bar = tqdm(
        total=total,
        initial=total - len(missing),
        desc=f"{record.parent.name} {record.stem}",
        unit="run",
        disable=not execution.progress,
        bar_format="{desc}: {n_fmt} of {total_fmt} runs done{postfix} |{bar:24}| {elapsed} elapsed, {remaining} to go",
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
        assert execution.time_limit is not None, "only a time limit ends a sweep early without an error"
        longer = f" ({len(too_long)} had all of it, and come last from now on)" if too_long else ""
        raise FlatlibError(
            f"the time limit of {round(execution.time_limit, 1):g} s is over: {total - len(missing) + len(done)} of "
            f"{total} runs are recorded{longer}; the same command goes on from there"
        )
    return done
