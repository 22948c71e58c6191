"""A slot of time on a machine: the runs of a list, chapter after chapter, until they or the time are over."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from flatlib.config import Execution, RunConfig
from flatlib.device import resolve
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.priority import previously_failed
from flatlib.runs.requirements import require_packages
from flatlib.runs.run_list import Group
from flatlib.training.data import data_folder, raw

Groups = Mapping[Group, list[RunConfig]]


def spend(groups: Groups, folder: Path, execution: Execution, committed: Path | None) -> Iterator[FlatlibError]:
    """Train what is missing of a list, in its order, and append each run to ``CHAPTER/PRESET.jsonl`` in `folder`.

    It may be killed at any moment, and the same call goes on: every finished run is on disk. What failed in an earlier
    slot, or had as much time as this one has, comes after everything else of the list.

    Args:
        groups: the runs by chapter and preset.
        folder: of the records that are appended to.
        execution: where and how wide; its time limit is for all together.
        committed: ``book/records``, whose runs are not trained again; None if it is not there.

    Yields:
        What ended the training of a chapter early: runs that failed, or time that is over.

    Raises:
        FlatlibError: before anything trains, for packages, a device or data sets that are not there.
    """
    end = time.monotonic() + (execution.time_limit or math.inf)
    missing = left_out(groups, folder, committed)
    configs = [config for group in missing.values() for config in group]
    require_packages(configs)
    resolve(execution.device)
    for dataset in dict.fromkeys(config.dataset for config in configs):
        raw(dataset, execution.data or data_folder())
    late = {group: previously_failed(path(folder, group), execution.time_limit) for group in missing}
    for last in (False, True):
        for group, runs in missing.items():
            now = [config for config in runs if (config.run_id in late[group]) == last]
            left = end - time.monotonic()
            if not now or left <= 0:
                continue
            limited = replace(execution, time_limit=None if math.isinf(left) else left)
            try:
                sweep.run(now, path(folder, group), limited, known=known(committed, group))
            except FlatlibError as error:
                yield FlatlibError(f"{group[0]} {group[1]}: {error}")


def left_out(groups: Groups, folder: Path, committed: Path | None) -> dict[Group, list[RunConfig]]:
    """The runs of the list that no record has."""
    found = {}
    for group, configs in groups.items():
        wanted = {config.run_id: config for config in configs}
        lines = sweep.recorded((*known(committed, group), path(folder, group)), wanted)
        found[group] = [config for run_id, config in wanted.items() if run_id not in lines]
    return found


def path(folder: Path, group: Group) -> Path:
    """The record of a chapter and a preset."""
    return folder / group[0] / f"{group[1]}.jsonl"


def known(committed: Path | None, group: Group) -> list[Path]:
    """The committed records of a group's chapter."""
    return list(records.in_folder(committed / group[0]).values()) if committed else []
