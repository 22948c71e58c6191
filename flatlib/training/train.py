"""One training run: from a configuration to a network, its trajectory and its measures."""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.device import current, reproducible, resolve, seeded
from flatlib.errors import FlatlibError, NotFinite
from flatlib.losses import SmoothedCrossEntropy, training_loss
from flatlib.measures import Checkpoint, Numbers, evaluate, measure
from flatlib.training.cuda_graph import replayed
from flatlib.training.data import Data, load
from flatlib.training.models import build
from flatlib.training.optim import SCHEDULES, Average, build_optimizer
from flatlib.training.optim.optimizers import set_learning_rate
from flatlib.training.step import TrainingStep, gradient_of

# What is random in a run draws from streams of its own, as in `step.AUGMENT`: the initialisation uses the seed itself.
SHUFFLE, DROPOUT = 0x5EED, 0xD209
CHUNK = 1000  # images per pass when batch norm's statistics are estimated again


@dataclass
class TrainedRun:
    """A finished run.

    Attributes:
        model: the network; at the end the average of the iterates, if these are averaged.
        optimizer: with its state, so that the next step can be taken.
        status: ``reached`` (the stop rule fired), ``capped`` (it did not within `max_epochs`) or ``diverged``
            (the training loss stopped being finite; there are no final measures then).
        updates: gradient steps taken.
        measures: name -> number, at the end (and ``_at_loss``, see `RunConfig.matched_loss`).
        trajectory: name -> list, one entry per tracked update; ``update`` counts the steps taken before it.
    """

    config: RunConfig
    model: nn.Module
    data: Data
    optimizer: torch.optim.Optimizer
    status: str = "capped"
    updates: int = 0
    measures: Numbers = field(default_factory=dict)
    trajectory: dict[str, list[float]] = field(default_factory=dict)


def train(config: RunConfig, *, device: str = "auto", data: Path | None = None) -> TrainedRun:
    """Train and measure one configuration; on a CPU the result is the same bit for bit every time.

    Args:
        config: what to do; `device` and `data` (the data folder) only say where.

    Raises:
        FlatlibError: if the data or the device is not there, or the network does not fit the images.
    """
    place = resolve(device)
    with current(place), reproducible(), seeded(config.seed + DROPOUT, place):
        images = load(config, place, data)
        model = build(config, tuple(images.x_train.shape[1:]), images.classes).to(place)
        run = TrainedRun(config, model, images, build_optimizer(model.parameters(), config))
        descend(run)
        release_gradients(run)
        if run.status != "diverged":
            take_final_measures(run)
        run.measures["updates"] = run.updates
        return run


def release_gradients(run: TrainedRun) -> None:
    """On a GPU they keep the memory of a graph that is gone from the measures, and from other runs."""
    run.model.zero_grad(set_to_none=True)
    if run.data.x_train.device.type == "cuda":
        torch.cuda.empty_cache()


def take_final_measures(run: TrainedRun) -> None:
    """The measures at the end; those at matched loss are null if the run never came down to it."""
    try:
        final = measure(run.config.measures, checkpoint(run))
    except NotFinite:
        run.status = "diverged"
        return
    if run.config.matched_loss is not None:
        run.measures = {f"{name}_at_loss": None for name in (*final, "update")} | run.measures
    run.measures |= final


def descend(run: TrainedRun) -> None:
    """Step until the stop rule fires, a limit is reached or the loss is no longer finite."""
    config, data = run.config, run.data
    tracked = checkpoint(run)
    per_epoch = updates_per_epoch(config, data)
    last = last_update(config, per_epoch)
    check_every, track_every = config.check_every or per_epoch, tracking_interval(config)
    average = Average(run.model) if config.averaging_start is not None else None
    step = stepper(run)
    track(run, tracked)
    run.model.train()
    for batch in batches(data, config):
        if run.updates % per_epoch == 0:
            set_learning_rate(run.optimizer, learning_rate_at(config, run.updates // per_epoch))
        step(batch)
        run.updates += 1
        if average is not None and run.updates % per_epoch == 0 and averages(config, run.updates // per_epoch):
            average.add(run.model)
        if track_every and run.updates % track_every == 0:
            track(run, tracked)
        if (run.updates % check_every == 0 or run.updates == last) and finished(run, last):
            break
    if average is not None and average.count and run.status != "diverged":
        run.model = average.network(lambda: data.x_train.split(CHUNK))


def updates_per_epoch(config: RunConfig, data: Data) -> int:
    """Batches in one pass over the training images."""
    return math.ceil(len(data.x_train) / (config.batch_size or len(data.x_train)))


def last_update(config: RunConfig, per_epoch: int) -> int:
    """Updates after which a run ends whatever its stop rule says.

    Raises:
        FlatlibError: if one limit ends every run before the other, on which its stop rule waits.
    """
    epochs, updates = config.max_epochs * per_epoch, config.max_updates
    if updates is None:
        return epochs
    if (config.stop == "updates" and updates > epochs) or (config.stop == "epochs" and updates < epochs):
        raise FlatlibError(
            f"stop: {config.stop} can never be reached: max_epochs of {config.max_epochs} are {epochs} updates, and "
            f"max_updates is {updates}"
        )
    return min(epochs, updates)


def learning_rate_at(config: RunConfig, epoch: int) -> float:
    """The rate in an epoch, counted from 0."""
    if config.averaging_learning_rate is not None and averages(config, epoch + 1):
        return config.averaging_learning_rate
    return config.learning_rate * SCHEDULES[config.schedule](epoch / config.max_epochs)


def averages(config: RunConfig, epochs: int) -> bool:
    """Whether the iterate after so many epochs is part of the average."""
    return config.averaging_start is not None and epochs > config.averaging_start * config.max_epochs


def stepper(run: TrainedRun) -> TrainingStep:
    """What takes the run's steps from its first, as fast as its device does."""
    images = run.data.x_train
    size = run.config.batch_size or len(images)
    gradient = replayed(gradient_of(run.model, run.config), run.model, size, images.device)
    return TrainingStep(gradient, run.optimizer, run.config, run.data)


def checkpoint(run: TrainedRun) -> Checkpoint:
    """The run as it is now, with a way to its next iterate."""
    return checkpoint_of_run(run.model, run.data, run.config, after=functools.partial(next_iterate, run))


def next_iterate(run: TrainedRun) -> nn.Module:
    """A copy of the network after one more step of its optimizer, on the first batch of the run's order of images,
    with what was random in its first step: the run's own random numbers are not used up."""
    with seeded(run.config.seed + DROPOUT, run.data.x_train.device):
        model = copy.deepcopy(run.model)
        optimizer = build_optimizer(model.parameters(), run.config)
        optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        step = TrainingStep(gradient_of(model.train(), run.config), optimizer, run.config, run.data)
        step(next(batches(run.data, run.config)))
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


def finished(run: TrainedRun, last: int) -> bool:
    """Evaluate exactly, over all training images; set the status and say whether the run is over."""
    config = run.config
    loss, accuracy = evaluate(
        run.model, run.data.x_train, run.data.y_train, training_loss(config.loss, config.label_smoothing)
    )
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
        "epochs": run.updates == config.max_epochs * updates_per_epoch(config, run.data),
        "updates": run.updates == config.max_updates,
    }[config.stop]
    if reached:
        run.status = "reached"
    return reached or run.updates == last


def track(run: TrainedRun, tracked: Checkpoint) -> None:
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


def checkpoint_of_run(
    model: nn.Module, data: Data, config: RunConfig, after: Callable[[], nn.Module] | None = None
) -> Checkpoint:
    """Return the checkpoint of a training run, measured with the settings of its configuration.

    Args:
        model: The network.
        data: The images it trains on and is tested on, from `flatlib.training.data.load`.
        config: Its settings: `measure_size`, `batch_norm`, `engine`, `tolerance` and `seed` apply here.
        after: Returns the network after one more step, for the measure `between_iterates`; None without one.
    """
    return Checkpoint(
        model=model,
        examples=data.measured(config.measure_size),
        loss=SmoothedCrossEntropy(config.label_smoothing) if config.label_smoothing else "cross_entropy",
        train=(data.x_train, data.y_train),
        test=(data.x_test, data.y_test),
        validation=data.validation,
        after=after,
        batch_norm=config.batch_norm,
        engine=config.engine,
        tolerance=config.tolerance,
        seed=config.seed,
    )
