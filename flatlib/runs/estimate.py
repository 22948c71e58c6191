"""Time that missing runs will take, from the recorded seconds and epochs of the runs most like them."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from flatlib.config import RunConfig
from flatlib.runs.records import Line, Lines
from flatlib.training.data import data_folder, raw
from flatlib.training.models import build

__all__ = ["NOTE", "duration", "plan_table"]

NOTE = (
    "time: the recorded seconds of the nearest runs, scaled by epochs, images and the size of the network, on the "
    "machine that recorded them; in brackets the shortest and longest of other seeds, or a factor of 3 either way."
)
IMAGES = {  # training images, the shape (C, H, W) of one, and classes, of the data sets that flatlib knows by name
    "digits": (1000, (1, 8, 8), 10),
    "mnist": (60_000, (1, 28, 28), 10),
    "fashion_mnist": (60_000, (1, 28, 28), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "cifar10-jpeg": (50_000, (3, 32, 32), 10),
}
OVERHEAD = 1e7  # operations that the launches of one gradient cost: about 1 ms at the 1e10 a second of one core
SPREAD = 3  # of runs unlike all recorded ones: predicted without its own record, a chapter is mostly within this factor
# What other settings add to the distance of two runs, beside the logarithm of the ratio of each size; chosen by hand
UNLIKE = {"model": 3, "dataset": 1, "stop": 4, "optimizer": 3, "measures": 2, "track": 2, "sam_rho": 1}
UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
SEEDS, SETTINGS, GUESS, UNKNOWN = "other seeds", "other settings", "guess (other network or data)", "unknown"
Estimate = tuple[str, list[float]]  # the basis, and the seconds by it, whose median is the estimate


@dataclass(frozen=True)
class Recorded:
    """Finished run: its settings, epochs and seconds, and whether a limit ended it."""

    config: RunConfig
    epochs: float
    seconds: float
    capped: bool


def plan_table(
    requests: Mapping[str, tuple[list[RunConfig], Lines]], known: Iterable[Line], workers: int
) -> pd.DataFrame:
    """Return a row for each chapter, and a total: its runs, and the time that the missing ones will take.

    Args:
        requests: By chapter, the runs that it needs and the recorded lines among them.
        known: Lines of any records to estimate from, such as all that are committed.
        workers: Number of runs that are trained at the same time.

    Returns:
        Columns ``chapter``, ``runs``, ``recorded``, ``missing``, ``networks``, ``time`` (with its range; ``unknown``
        if nothing is recorded to estimate it from) and ``basis`` (what the missing runs were estimated from).
    """
    history = recorded_runs([*known, *(line for _, lines in requests.values() for line in lines.values())])
    of_setting = functools.cache(lambda setting: estimate(setting, history))
    rows: list[list[Any]] = []
    everything: list[Estimate] = []
    for chapter, (configs, lines) in requests.items():
        wanted = {config.run_id: config for config in configs}
        missing = [config for run_id, config in wanted.items() if run_id not in lines]
        estimates = [of_setting(replace(config, seed=0)) for config in missing]
        networks = ", ".join(dict.fromkeys(config.model for config in configs))
        counts = [len(wanted), len(wanted) - len(missing), len(missing)]
        rows.append([chapter, *counts, networks, *summary(estimates, workers)])
        everything += estimates
    totals = [sum(row[column] for row in rows) for column in (1, 2, 3)]
    rows.append(["total", *totals, "", *summary(everything, workers)])
    return pd.DataFrame(rows, columns=["chapter", "runs", "recorded", "missing", "networks", "time", "basis"])


def summary(estimates: list[Estimate], workers: int) -> list[str]:
    """Return time and basis of several runs in words."""
    if not estimates:
        return ["-", "-"]
    basis = ", ".join(f"{count} {name}" for name, count in Counter(name for name, _ in estimates).items())
    ranges = [(min(found), median(found), max(found)) for _, found in estimates if found]
    if not ranges:
        return [UNKNOWN, basis]
    low, middle, high = (duration(sum(column) / min(workers, len(estimates))) for column in zip(*ranges, strict=True))
    return [f"{middle} ({low} to {high})", basis]


def recorded_runs(lines: Iterable[Line]) -> dict[RunConfig, list[Recorded]]:
    """Return the runs that did not diverge, by their settings without the seed."""
    found: dict[RunConfig, list[Recorded]] = defaultdict(list)
    for line in {line["run_id"]: line for line in lines}.values():
        seconds, updates = line["provenance"].get("seconds"), line["measures"].get("updates")
        if seconds and updates and line["status"] != "diverged":
            config = RunConfig.from_json(line["config"])
            run = Recorded(config, updates / updates_per_epoch(config), seconds, line["status"] == "capped")
            found[replace(config, seed=0)].append(run)
    return found


def estimate(config: RunConfig, history: Mapping[RunConfig, list[Recorded]]) -> Estimate:
    """Return the basis of an estimate and its seconds: those of other seeds, or low, middle and high by the nearest."""
    if same := history.get(config):
        return SEEDS, [run.seconds for run in same]
    if not history:
        return UNKNOWN, []
    nearest = min(history, key=lambda other: distance(config, other))
    basis = SETTINGS if (nearest.model, nearest.dataset) == (config.model, config.dataset) else GUESS
    per_operation = {run: run.seconds / work(nearest, run.epochs) for run in history[nearest]}
    middle = median(rate * work(config, expected_epochs(config, run)) for run, rate in per_operation.items())
    return basis, [middle / SPREAD, middle, middle * SPREAD]


def distance(one: RunConfig, other: RunConfig) -> float:
    """Return how unlike two runs are in what decides their length and their time for an epoch."""
    unlike = sum(weight for name, weight in UNLIKE.items() if getattr(one, name) != getattr(other, name))
    sizes = [(c.learning_rate, c.batch_size or images(c), images(c), operations(c)) for c in (one, other)]
    return unlike + sum(abs(math.log(a / b)) for a, b in zip(*sizes, strict=True))


def expected_epochs(config: RunConfig, run: Recorded) -> float:
    """Return the epochs of a run: by its stop rule, else as many as a recorded one took, at most its own limit."""
    limits = [float(config.max_epochs)]
    if config.max_updates is not None:
        limits.append(config.max_updates / updates_per_epoch(config))
    if config.stop in ("epochs", "updates"):
        return limits[0 if config.stop == "epochs" else -1]
    return min(limits) if run.capped else min(run.epochs, *limits)


def work(config: RunConfig, epochs: float) -> float:
    """Return the floating-point operations of a run's steps; a backward pass costs twice the forward one."""
    epoch = 3 * operations(config) * images(config) + OVERHEAD * updates_per_epoch(config)
    return epochs * epoch * (2 if config.sam_rho else 1)


def images(config: RunConfig) -> int:
    """Return how many images a run is trained on."""
    return config.train_size or image_set(config.dataset)[0]


def updates_per_epoch(config: RunConfig) -> int:
    """Return the batches in one pass over the training images."""
    return math.ceil(images(config) / (config.batch_size or images(config)))


@functools.cache
def image_set(dataset: str) -> tuple[int, tuple[int, int, int], int]:
    """Return what ``IMAGES`` has of a data set; a reader's own file is opened."""
    if dataset in IMAGES:
        return IMAGES[dataset]
    arrays = raw(dataset, data_folder())
    count, height, width, *channels = arrays["x_train"].shape
    return count, (channels[0] if channels else 1, height, width), int(arrays["y_train"].max()) + 1


def operations(config: RunConfig) -> int:
    """Return the floating-point operations of a forward pass over one image."""
    return _operations(config.dataset, config.model, config.width, config.depth)


@functools.cache
def _operations(dataset: str, model: str, width: float, depth: int) -> int:
    """Count them on a network without numbers."""
    _, shape, classes = image_set(dataset)
    config = RunConfig(dataset=dataset, model=model, width=width, depth=depth)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(config, shape, classes).eval()(torch.empty(1, *shape))
    return counter.get_total_flops()


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit of which there are two.

    >>> duration(0.2), duration(100), duration(7300), duration(200_000)
    ('0.2 s', '100 s', '2.0 h', '2.3 d')
    """
    unit, size = next((pair for pair in UNITS if seconds >= 2 * pair[1]), UNITS[-1])
    return f"{seconds / size:.{0 if unit == 's' and seconds >= 10 else 1}f} {unit}"
