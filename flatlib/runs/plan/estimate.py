"""The plan as a table: for every chapter its runs, and the time and memory that the missing ones take here."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch

from flatlib.book.dry_run import Asked
from flatlib.config import RunConfig
from flatlib.runs import records
from flatlib.runs.plan.cost import Cost, cost
from flatlib.runs.plan.length import GUESS, RECORDED, History
from flatlib.runs.plan.stand_ins import images_of, in_use
from flatlib.runs.plan.steps import Steps, calibrate, kind_of

Costs = dict[str, list[Cost]]
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def costs(chapters: Mapping[str, Asked], device: torch.device, data: Path | None = None) -> tuple[Costs, list[Steps]]:
    """What the missing runs of every chapter take on this machine, and what was timed for it.

    Args:
        chapters: by name, what each asks for.
        device: where they would be trained.
        data: the data folder, for data sets that are files of the reader's own.
    """
    missing = {name: list(asked.missing.values()) for name, asked in chapters.items()}
    everything = [config for configs in missing.values() for config in configs]
    names = dict.fromkeys(config.dataset for config in everything)
    images = {name: images_of(name, data) for name in names}
    batches: dict[RunConfig, list[int]] = defaultdict(list)
    for config in everything:
        batches[kind_of(config)].append(config.batch_size or in_use(config, images[config.dataset]).train)
    steps = calibrate(batches, device, data) if batches else {}
    found = {}
    for name, configs in missing.items():
        history = History(line for path in chapters[name].paths for line in records.read(path).values())
        found[name] = [
            cost(config, in_use(config, images[config.dataset]), history, steps[kind_of(config)], device)
            for config in configs
        ]
    return found, [*steps.values()]


def plan_table(chapters: Mapping[str, Asked], expected: Costs, at_once: int = 1) -> pd.DataFrame:
    """One row for every chapter and one for all: runs, how many are recorded and missing, networks, time and memory of
    the missing ones, and the share of this time in runs whose number of updates is guessed.

    Args:
        chapters: by name, what each asks for.
        expected: what its missing runs take.
        at_once: runs that are trained at the same time.
    """
    rows = {name: row(asked, expected[name], at_once) for name, asked in chapters.items()}
    networks = dict.fromkeys(config.model for asked in chapters.values() for config in asked.configs.values())
    everything = [one for of_chapter in expected.values() for one in of_chapter]
    counts = {column: sum(found[column] for found in rows.values()) for column in ("runs", "recorded", "missing")}
    rows["total"] = counts | {"networks": f"{len(networks)} in all"} | taken(everything, at_once)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("chapter").reset_index()


def row(asked: Asked, expected: list[Cost], at_once: int) -> dict[str, int | str]:
    """A chapter's row of the table."""
    runs, missing = len(asked.configs), len(asked.missing)
    networks = ", ".join(dict.fromkeys(config.model for config in asked.configs.values()))
    counts = {"runs": runs, "recorded": runs - missing, "missing": missing}
    return counts | {"networks": networks} | taken(expected, at_once)


def taken(expected: list[Cost], at_once: int) -> dict[str, str]:
    """Time, memory and the share that is guessed, of several runs; dashes for none."""
    if not expected:
        return {"time": "-", "memory": "-", "guessed": "-"}
    seconds = sum(one.seconds for one in expected)
    guessed = sum(one.seconds for one in expected if one.source == GUESS) / seconds
    return {
        "time": duration(seconds / min(at_once, len(expected))),
        "memory": amount(max(one.memory for one in expected)),
        "guessed": f"{guessed:.0%}",
    }


def duration(seconds: float) -> str:
    """A length of time in the largest unit of which there are two.

    >>> duration(100), duration(7300), duration(0.2)
    ('100 s', '2.0 h', '0.2 s')
    """
    unit, size = next((pair for pair in UNITS if seconds >= 2 * pair[1]), UNITS[-1])
    return f"{seconds / size:.{0 if seconds >= 10 else 1}f} {unit}" if unit == "s" else f"{seconds / size:.1f} {unit}"


def amount(size: int) -> str:
    """Bytes in a unit of which there is at least one.

    >>> amount(3 * 2**30), amount(5 * 2**19)
    ('3.0 GiB', '2 MiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def notes(
    chapters: Mapping[str, Asked], expected: Costs, steps: list[Steps], device: torch.device, at_once: int
) -> list[str]:
    """What the numbers of the table are: which are counted, which measured here, which guessed."""
    everything = [one for of_chapter in expected.values() for one in of_chapter]
    sources = [one.source for one in everything]
    told = ["runs, recorded, missing: counted."]
    if not everything:
        return told
    how = "measured for its steps, estimated for its measures" if device.type == "cuda" else "estimated"
    largest = sorted(found.largest for found in steps)
    told += [
        f"time: seconds per update were measured here ({device.type}) for {len(steps)} kinds of steps on random "
        f"images, the largest batches from {largest[0]} to {largest[-1]}; larger ones and measures are taken in "
        f"proportion, a guess. Runs at the same time: {at_once}.",
        f"updates of the missing runs: {len(sources) - sources.count(GUESS) - sources.count(RECORDED)} by their "
        f"settings, {sources.count(RECORDED)} as recorded with other seeds, {sources.count(GUESS)} guessed from the "
        "chapter's nearest recorded runs, at most their limit (guessed: the share of the time that hangs on this).",
        f"memory: of one run, without PyTorch itself; {how}.",
    ]
    for name, asked in chapters.items():
        if asked.chosen_later:
            told.append(f"{name}: {len(asked.chosen_later)} of the missing runs are a guess: others choose them.")
    return told
