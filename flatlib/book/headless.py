"""Chapters trained without their notebooks, and the plan of that; needs no notebook package."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from flatlib.book.chapter import Chapter
from flatlib.book.paths import find_root
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.estimate import plan_table
from flatlib.runs.priority import previously_failed
from flatlib.training.data import data_folder, raw


def missing_runs(chapter: Chapter) -> list[RunConfig]:
    """Return the runs that a chapter requests and no record has."""
    requests = chapter.requests()
    found = chapter.recorded(requests)
    return [config for config in requests if config.run_id not in found]


def train(chapters: Sequence[Chapter], time_limit: float | None = None) -> Iterator[FlatlibError]:
    """Train the missing runs of chapters, one chapter after the other, each into its `record`.

    A chapter that tunes continues with the runs that its tuning runs choose. Every finished run is on disk: after a
    kill, the same call continues. Runs that failed before, or had as much time as there is now, come last.

    Args:
        chapters: In the order in which they are trained.
        time_limit: Seconds for all chapters together.

    Yields:
        The error that ended the training of a chapter early: failed runs, or the time limit.

    Raises:
        FlatlibError: A missing data set, before anything trains.
    """
    end = time.monotonic() + (time_limit or math.inf)
    for dataset in dict.fromkeys(config.dataset for chapter in chapters for config in missing_runs(chapter)):
        raw(dataset, data_folder())
    failed = {chapter.record: previously_failed(chapter.record, time_limit) for chapter in chapters}
    for again in (False, True):
        for chapter in chapters:
            try:
                train_stages(chapter, failed[chapter.record], again, end)
            except FlatlibError as error:
                yield FlatlibError(f"{chapter.claim.chapter}: {error}")


def train_stages(chapter: Chapter, failed: set[str], again: bool, end: float) -> None:
    """Train the runs that a chapter requests, then those that it requests in view of these, until `end` of the clock.

    Of both, these are the previously failed ones with `again`, and the others without.
    """
    stage = None
    while (requests := chapter.requests()) != stage:
        stage = requests
        now = [config for config in missing_runs(chapter) if (config.run_id in failed) == again]
        left = end - time.monotonic()
        if now and left > 0:
            execution = replace(chapter.execution, time_limit=None if math.isinf(left) else left)
            sweep.run(now, chapter.record, execution, known=list(chapter.published.values()))


def progress(chapter: Chapter) -> tuple[bool, str]:
    """Return whether every run of a chapter is recorded, and a line with their number."""
    requests = {config.run_id for config in chapter.requests()}
    missing, later = len({config.run_id for config in missing_runs(chapter)}), len(chapter.chosen_later())
    more = f"; {later} more runs are chosen by these" if later else ""
    name = f"{chapter.claim.chapter} {chapter.parameters.preset}"
    return not missing, f"{name}: {len(requests) - missing} of {len(requests)} runs recorded{more}"


def plan(chapters: Sequence[Chapter], workers: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of recorded and missing runs and their time, and a note for each chapter that tunes."""
    published = (find_root() / "book" / "records").glob("*/*.jsonl")
    known = [line for path in sorted(published) for line in records.read(path).values()]
    requests, notes = {}, []
    for chapter in chapters:
        name, later = chapter.claim.chapter, chapter.chosen_later()
        configs = chapter.requests() + later
        requests[name] = (configs, chapter.recorded(configs))
        if later:
            notes.append(f"{name}: {len(later)} of the missing runs are stand-ins: the others choose them.")
    return plan_table(requests, known, workers), notes
