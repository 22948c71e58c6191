"""Seconds per update on this machine, from short trainings on random images."""

import math
import tempfile
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from flatlib.config import RunConfig
from flatlib.runs.plan.stand_ins import Images, images_of, stand_in
from flatlib.training.train import train

BUDGET = 30.0
"""Seconds that all calibrations together may take."""
SMALLEST = 8
"""Images of the first batch that is timed."""
FEW = {"cpu": 1, "cuda": 20}
"""Updates of the shorter run."""
WARM_UP = Images((1, 8, 8), 2, 100, 1)
"""What PyTorch does once in a process is done on these before anything is timed."""
SIGNIFICANT = 0.5
"""The longer run takes longer by at least this part of the shorter, where time allows: what is left is no noise."""


@dataclass
class Steps:
    """What steps of one kind take, by the size of the batch.

    Attributes:
        seconds: per update, by timed batch size, smallest first.
        memory: bytes that training took at most, images aside, by timed batch size; empty on a CPU.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The largest batch that was timed."""
        return max(self.seconds)

    def of(self, batch: int) -> float:
        """Seconds per update: on the line between two timed sizes, and proportional to the size above the largest."""
        sizes = list(self.seconds)
        if batch >= sizes[-1]:
            return self.seconds[sizes[-1]] * batch / sizes[-1]
        if batch <= sizes[0]:
            return self.seconds[sizes[0]]
        above = bisect_left(sizes, batch)
        low, high = sizes[above - 1], sizes[above]
        share = (batch - low) / (high - low)
        return (1 - share) * self.seconds[low] + share * self.seconds[high]


def kind_of(config: RunConfig) -> RunConfig:
    """The configuration's kind of step: what does not change its time is at the default. SAM and the loss are not part
    of it, nor is the size of the batch unless it is all images; the learning rate is one that nothing diverges at."""
    names = ("dataset", "model", "width", "depth", "activation", "optimizer", "microbatch", "augmentation", "precision")
    shared = {name: getattr(config, name) for name in names}
    whole = {"batch_size": 0} if config.batch_size == 0 else {}
    momentum, mixup, dropout = (0.5 * (value > 0) for value in (config.momentum, config.mixup, config.dropout))
    return RunConfig(**shared, **whole, momentum=momentum, mixup=mixup, dropout=dropout, learning_rate=1e-9)


def calibrate(
    batches: Mapping[RunConfig, Sequence[int]],
    device: torch.device,
    data: Path | None = None,
    budget: float = BUDGET,
) -> dict[RunConfig, Steps]:
    """Time each kind of step at the batch sizes that are wanted, or as near to them as time allows.

    Args:
        batches: by kind (see `kind_of`), the batch size of each of its runs.
        device: where.
        data: the data folder, for data sets that are files of the reader's own.
        budget: seconds for all, one half shared equally, the other by the number of runs, most runs first. At least
            one size is timed of each kind, whatever that takes.
    """
    found = {}
    end = time.monotonic() + budget
    kinds = sorted(batches, key=lambda kind: -len(batches[kind]))
    with tempfile.TemporaryDirectory() as folder:
        run_for(RunConfig(dataset=str(stand_in(Path(folder), WARM_UP, WARM_UP.train))), 1, device)
        for done, kind in enumerate(kinds):
            runs = [len(batches[other]) for other in kinds[done:]]
            share = (end - time.monotonic()) * (runs[0] / sum(runs) + 1 / len(runs)) / 2
            images = images_of(kind.dataset, data)
            found[kind] = timed_kind(kind, sorted(set(batches[kind])), images, device, Path(folder), share)
    return found


def timed_kind(
    kind: RunConfig, wanted: Sequence[int], images: Images, device: torch.device, folder: Path, share: float
) -> Steps:
    """One kind at growing batches, as long as the next one is expected to fit into its share of the time."""
    steps, end = Steps(), time.monotonic() + share
    batch: int | None = min(SMALLEST, *wanted)
    while batch is not None:
        begin = time.monotonic()
        of_epoch = batch if kind.batch_size == 0 else 2 * batch
        path = stand_in(folder, images, of_epoch)
        steps.seconds[batch], memory = timed(kind, batch, path, device, end)
        if device.type == "cuda":
            steps.memory[batch] = memory - 4 * of_epoch * math.prod(images.shape)
        now = time.monotonic()
        batch = next_batch(batch, wanted, (now - begin) / batch, end - now)
    return steps


def next_batch(last: int, wanted: Sequence[int], took: float, left: float) -> int | None:
    """The next size to time: the next that is wanted, or the double of the last one where that would take too long, or
    none.

    took: seconds for an image of the last size. left: seconds.
    """
    larger = [batch for batch in wanted if batch > last]
    for batch in (min(larger), 2 * last) if larger else ():
        if batch <= max(larger) and took * batch <= left:
            return batch
    return None


def timed(kind: RunConfig, batch: int, path: Path, device: torch.device, end: float) -> tuple[float, int]:
    """Seconds per update, as the difference of a short run and a longer one; most bytes on the GPU meanwhile."""
    config = replace(
        kind,
        dataset=str(path),
        batch_size=0 if kind.batch_size == 0 else batch,
        standardize=False,
        check_every=2**31,
        measures=(),
    )
    few, more = FEW[device.type], 2
    if device.type == "cuda":
        run_for(config, few, device)  # kernels are chosen once for each kind and size
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    short = run_for(config, few, device)
    while True:
        difference = run_for(config, few + more, device) - short
        late = time.monotonic() + short + 4 * difference > end
        if difference >= SIGNIFICANT * short or (late and difference > 0):
            memory = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
            return difference / more, memory
        more *= 4


def run_for(config: RunConfig, updates: int, device: torch.device) -> float:
    """Seconds that a training of so many updates takes, with all that is done once."""
    finish(device)
    begin = time.perf_counter()
    train(replace(config, stop="updates", max_updates=updates, max_epochs=updates), device=str(device))
    finish(device)
    return time.perf_counter() - begin


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
