"""One training run: from a configuration to a network, its trajectory and its measures."""

import copy
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flatlib.config import RunConfig
from flatlib.device import current, reproducible, resolve, seeded
from flatlib.errors import FlatlibError, NotFinite
from flatlib.losses import training_loss
from flatlib.measures import Checkpoint, Numbers, evaluate, measure
from flatlib.training.checkpoint import checkpoint_of_run
from flatlib.training.data import Data, load
from flatlib.training.models import build
from flatlib.training.optim import averaged_network, build_optimizer
from flatlib.training.optim.optimizers import set_learning_rate
from flatlib.training.optim.schedules import is_averaged, learning_rate_at
from flatlib.training.step import TrainingStep, batches

AFTER_A_STEP = {"preconditioned_lambda_max"}  # measures without a value before the first step, recorded as null there
DROPOUT = 0xD209  # added to the seed for what is drawn from the global random state
NEAR = 3.0  # times the matched loss: where the further checks begin; tuned, at 2 some runs pass it between two checks
CHUNK = 1000  # images per pass when batch norm's statistics are estimated again
ONE_RUN = threading.Lock()  # the global random state and torch's settings are shared by all threads of a process


@dataclass
class TrainedRun:
    """Finished run.

    Attributes:
        config: Its configuration.
        model: The network; the average of the iterates where these are averaged.
        data: The images it was trained and tested on.
        optimizer: The optimizer with its state, so that the next step can be taken.
        status: "reached" (the stop rule holds), "capped" (it does not within the limits) or "diverged" (the training
            loss is not finite; there are no final measures then).
        updates: Number of gradient steps taken.
        measures: Numbers by name, at the end (and ``_at_loss``, see `RunConfig.matched_loss`).
        trajectory: Lists by name, one entry per tracked update; ``update`` counts the steps taken before it.
    """

    config: RunConfig
    model: nn.Module
    data: Data
    optimizer: torch.optim.Optimizer
    status: str = "capped"
    updates: int = 0
    measures: Numbers = field(default_factory=dict)
    trajectory: dict[str, list[float | None]] = field(default_factory=dict)


def train(config: RunConfig, *, device: str = "auto", data: Path | None = None) -> TrainedRun:
    """Train and measure one configuration; on the same kind of CPU the result is the same bit for bit every time.

    Another kind of CPU, and a GPU, adds in another order: short runs agree to some digits, long ones drift apart.
    Threads of a process train one after another.

    Args:
        config: Settings of the run.
        device: Name of the device, see `Execution`.
        data: Data folder; None for the default one.

    Raises:
        FlatlibError: If the data or the device is not there, or the network does not fit the images.
    """
    place = resolve(device)
    with ONE_RUN, current(place), reproducible(), seeded(config.seed + DROPOUT, place):
        images = load(config, place, data)
        model = build(config, images.image_shape, images.classes).to(place)
        trained = TrainedRun(config, model, images, build_optimizer(model.parameters(), config))
        run_training_loop(trained)
        trained.model.zero_grad(set_to_none=True)
        if place.type == "cuda":
            torch.cuda.empty_cache()  # the measures need the memory
        if trained.status != "diverged":
            take_final_measures(trained)
        trained.measures["updates"] = trained.updates
        return trained


def take_measures(trained: TrainedRun) -> Numbers:
    """Return the measures as of now; where they are not finite, there are none and the run has diverged."""
    try:
        return measure(trained.config.measures, checkpoint(trained))
    except NotFinite:
        trained.status = "diverged"
        return {}


def take_final_measures(trained: TrainedRun) -> None:
    """Add the measures at the end; those at matched loss are None if the run never reached that loss."""
    final = take_measures(trained)
    if trained.config.matched_loss is not None and trained.status != "diverged":
        missing: Numbers = {f"{name}_at_loss": None for name in (*final, "update")}
        trained.measures = missing | trained.measures
    trained.measures |= final


def run_training_loop(trained: TrainedRun) -> None:
    """Train until the stop rule holds, a limit is reached or the loss is no longer finite."""
    config, data = trained.config, trained.data
    tracked = checkpoint(trained)
    per_epoch = updates_per_epoch(config, data)
    last = last_update(config, per_epoch)
    check_every, track_every = config.check_every or per_epoch, config.track_every
    if config.track_time is not None:
        track_every = max(1, round(config.track_time / config.learning_rate))
    loss_function = training_loss(config.loss, config.label_smoothing)
    average = AveragedModel(trained.model) if config.averaging_start is not None else None
    step = TrainingStep(trained.model, trained.optimizer, config, data)
    track(trained, tracked)
    is_near = False
    trained.model.train()
    for batch in batches(data, config):
        if trained.updates % per_epoch == 0:
            set_learning_rate(trained.optimizer, learning_rate_at(config, trained.updates // per_epoch))
        step(batch)
        trained.updates += 1
        epochs, remainder = divmod(trained.updates, per_epoch)
        if average is not None and not remainder and is_averaged(config, epochs):
            average.update_parameters(trained.model)
        if track_every and trained.updates % track_every == 0:
            track(trained, tracked)
        is_check = trained.updates % check_every == 0 or trained.updates == last
        if is_check or (is_near and trained.updates % (config.matched_loss_every or 1) == 0):
            loss, accuracy = evaluate(trained.model, data.x_train, data.y_train, loss_function)
            if is_check:
                trained.status = check_stop_rule(trained, loss, accuracy)
            measure_at_matched_loss(trained, loss)
            is_near = is_near_matched_loss(trained, loss, is_near)
            if trained.status != "capped" or trained.updates == last:
                break
    if average is not None and average.n_averaged and trained.status != "diverged":
        trained.model = averaged_network(average, lambda: data.x_train.split(CHUNK))


def check_stop_rule(trained: TrainedRun, loss: float, accuracy: float) -> str:
    """Return the status of a run at this training loss and accuracy; "capped" means that it can continue."""
    if not math.isfinite(loss):
        return "diverged"
    config = trained.config
    reached = {
        "train_accuracy": accuracy >= config.stop_value,
        "train_loss": loss <= config.stop_value,
        "epochs": trained.updates == config.max_epochs * updates_per_epoch(config, trained.data),
        "updates": trained.updates == config.max_updates,
    }[config.stop]
    return "reached" if reached else "capped"


def measure_at_matched_loss(trained: TrainedRun, loss: float) -> None:
    """Add the measures at matched loss if this is the first check at or below that loss."""
    matched = trained.config.matched_loss
    if matched is None or not loss <= matched or "update_at_loss" in trained.measures:
        return
    found = take_measures(trained)
    if trained.status != "diverged":
        found["update"] = trained.updates
        trained.measures |= {f"{name}_at_loss": value for name, value in found.items()}


def is_near_matched_loss(trained: TrainedRun, loss: float, was_near: bool) -> bool:
    """Return whether the matched loss is near and not reached, so that the further checks for it are made."""
    config = trained.config
    if config.matched_loss is None or config.matched_loss_every is None or "update_at_loss" in trained.measures:
        return False
    return was_near or loss <= NEAR * config.matched_loss


def updates_per_epoch(config: RunConfig, data: Data) -> int:
    """Return the number of batches in one pass over the training images."""
    return math.ceil(len(data.x_train) / (config.batch_size or len(data.x_train)))


def last_update(config: RunConfig, per_epoch: int) -> int:
    """Return the number of updates after which a run ends whatever its stop rule says.

    Raises:
        FlatlibError: If one limit ends every run before the other, which its stop rule waits for.
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


def checkpoint(trained: TrainedRun) -> Checkpoint:
    """Return the run as it is now, with a way to its next iterate."""
    parts = (trained.model, trained.data, trained.config)
    return checkpoint_of_run(*parts, after=lambda: next_iterate(trained), optimizer=trained.optimizer)


def next_iterate(trained: TrainedRun) -> nn.Module:
    """Return a copy of the network after one more step of its optimizer.

    The step takes the first batch and the random numbers of the run's first step; the run itself uses none up.
    """
    with seeded(trained.config.seed + DROPOUT, trained.data.x_train.device):
        model = copy.deepcopy(trained.model).train()
        optimizer = build_optimizer(model.parameters(), trained.config)
        optimizer.load_state_dict(copy.deepcopy(trained.optimizer.state_dict()))
        TrainingStep(model, optimizer, trained.config, trained.data)(next(batches(trained.data, trained.config)))
    return model


def track(trained: TrainedRun, tracked: Checkpoint) -> None:
    """Append the tracked measures of this moment to the trajectory."""
    if not trained.config.track:
        return
    try:
        point = {"update": trained.updates} | measure(trained.config.track, tracked)
    except NotFinite:  # diverged between two checks; the next check says so
        return
    missing = {name for name, value in point.items() if value is None}
    if missing - (set() if trained.updates else AFTER_A_STEP):
        raise FlatlibError(f"track: {', '.join(sorted(missing))} is not defined along this run")
    if all(math.isfinite(value) for value in point.values() if value is not None):
        before = [None] * len(trained.trajectory.get("update", []))
        for name in [*trained.trajectory, *(name for name in point if name not in trained.trajectory)]:
            trained.trajectory.setdefault(name, [*before]).append(point.get(name))
