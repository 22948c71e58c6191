"""One training run: from a configuration to a network, its trajectory and its measures."""

import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.data import Data, load
from flatlib.device import reproducible, resolve, seeded
from flatlib.errors import FlatlibError, NotFinite
from flatlib.measures import Checkpoint, Numbers, evaluate, measure, of_run
from flatlib.models import build

SHUFFLE = 0x5EED  # separates the order of the batches from the initialisation, which uses the seed itself
DROPOUT = 0xD209  # separates the units that dropout drops from both


@dataclass
class Trained:
    """A finished run.

    Attributes:
        status: ``reached`` (the stop rule fired), ``capped`` (it did not within `max_epochs`) or ``diverged``
            (the training loss stopped being finite; there are no final measures then).
        updates: gradient steps taken.
        measures: name -> number, at the end (and ``_at_loss``, see `RunConfig.matched_loss`).
        trajectory: name -> list, one entry per tracked update; ``update`` counts the steps taken before it.
    """

    config: RunConfig
    model: nn.Module
    data: Data
    status: str = "capped"
    updates: int = 0
    measures: Numbers = field(default_factory=dict)
    trajectory: dict[str, list[float]] = field(default_factory=dict)


def train(config: RunConfig, *, device: str = "auto", data: Path | None = None) -> Trained:
    """Train and measure one configuration; on a CPU the result is the same bit for bit every time.

    Args:
        config: what to do; `device` and `data` (the data folder) only say where.

    Raises:
        FlatlibError: if the data or the device is not there, or the network does not fit the images.
    """
    with reproducible():
        place = resolve(device)
        images = load(config, place, data)
        model = build(config, tuple(images.x_train.shape[1:]), images.classes).to(place)
        run = Trained(config, model, images)
        with seeded(config.seed + DROPOUT, place):
            descend(run)
        if run.status != "diverged":
            take_final_measures(run)
        run.measures["updates"] = run.updates
        return run


def take_final_measures(run: Trained) -> None:
    """The measures at the end; those at matched loss are null if the run never came down to it."""
    try:
        final = measure(run.config.measures, checkpoint(run))
    except NotFinite:
        run.status = "diverged"
        return
    if run.config.matched_loss is not None:
        run.measures = {f"{name}_at_loss": None for name in (*final, "update")} | run.measures
    run.measures |= final


def descend(run: Trained) -> None:
    """Plain SGD until the stop rule fires, the cap is reached or the loss is no longer finite."""
    config, data = run.config, run.data
    optimizer = optimizer_of(run.model, config)
    tracked = checkpoint(run)
    per_epoch = math.ceil(len(data.x_train) / (config.batch_size or len(data.x_train)))
    last = config.max_epochs * per_epoch
    check_every, track_every = config.check_every or per_epoch, tracking_interval(config)
    track(run, tracked)
    run.model.train()
    for batch in batches(data, config):
        step(run.model, optimizer, data, batch)
        run.updates += 1
        if track_every and run.updates % track_every == 0:
            track(run, tracked)
        if (run.updates % check_every == 0 or run.updates == last) and finished(run, last):
            return


def optimizer_of(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Plain SGD."""
    return torch.optim.SGD(model.parameters(), lr=config.learning_rate)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, batch: Tensor | slice) -> None:
    """One step on one batch."""
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
    optimizer.step()


def checkpoint(run: Trained) -> Checkpoint:
    """The run as it is now, with a way to its next iterate."""
    return of_run(run.model, run.data, run.config, after=functools.partial(next_iterate, run))


def next_iterate(run: Trained) -> nn.Module:
    """A copy of the network after one more step, on the first batch of the run's order of images, with the units
    dropped that its first step dropped: the run's own random numbers are not used up."""
    model, config = copy.deepcopy(run.model).train(), run.config
    with seeded(config.seed + DROPOUT, run.data.x_train.device):
        step(model, optimizer_of(model, config), run.data, next(batches(run.data, config)))
    return model


def batches(data: Data, config: RunConfig) -> Iterator[Tensor | slice]:
    """Indices of one batch after another, without end, in a new random order every epoch; the last batch of an
    epoch holds what is left. A full batch needs no order."""
    total = len(data.x_train)
    if config.batch_size in (0, total):
        while True:
            yield slice(None)
    generator = torch.Generator().manual_seed(config.seed + SHUFFLE)
    while True:
        order = torch.randperm(total, generator=generator).to(data.x_train.device)
        yield from order.split(config.batch_size)


def tracking_interval(config: RunConfig) -> int | None:
    """Updates between two points of the trajectory; None tracks nothing."""
    if config.track_time is None:
        return config.track_every
    return max(1, round(config.track_time / config.learning_rate))


def finished(run: Trained, last: int) -> bool:
    """Evaluate exactly, over all training images; set the status and say whether the run is over."""
    config = run.config
    loss, accuracy = evaluate(run.model, run.data.x_train, run.data.y_train)
    if not math.isfinite(loss):
        run.status = "diverged"
        return True
    if config.matched_loss is not None and loss <= config.matched_loss and "update_at_loss" not in run.measures:
        try:
            found = measure(config.measures, checkpoint(run))
        except NotFinite:
            run.status = "diverged"
            return True
        run.measures |= {f"{name}_at_loss": value for name, value in found.items()} | {"update_at_loss": run.updates}
    reached = {
        "train_accuracy": accuracy >= config.stop_value,
        "train_loss": loss <= config.stop_value,
        "epochs": run.updates == last,
    }[config.stop]
    if reached:
        run.status = "reached"
    return reached or run.updates == last


def track(run: Trained, tracked: Checkpoint) -> None:
    """Append the tracked measures of this moment to the trajectory."""
    if not run.config.track:
        return
    try:
        point = {"update": run.updates} | measure(run.config.track, tracked)
    except NotFinite:  # diverged between two looks; the next look says so
        return
    undefined = [name for name, value in point.items() if value is None]
    if undefined:
        raise FlatlibError(f"track: {', '.join(undefined)} is not defined along this run")
    if not all(math.isfinite(value) for value in point.values()):
        return
    for name, value in point.items():
        run.trajectory.setdefault(name, []).append(value)
