"""What one run takes here: seconds in one process, and bytes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from flatlib.config import RunConfig
from flatlib.measures.performance import CHUNK
from flatlib.runs.plan.length import History
from flatlib.runs.plan.memory import peak_bytes
from flatlib.runs.plan.stand_ins import Images
from flatlib.runs.plan.steps import Steps
from flatlib.training.train import tracking_interval

SAM = 2.0
"""Gradients in a step of SAM."""
FORWARD = 1 / 3
"""A forward pass in gradients: the backward pass takes about two of it."""
PRODUCT = 2.0
"""A product with the Hessian in gradients: it differentiates the gradient once more."""
ONE_PASS = ("gradient_norm", "weight_norm", "margin")
"""Measures of one gradient at most; what is not listed here or evaluated is taken to cost what `lambda_max` does."""


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take: seconds, how its updates are known (see `flatlib.runs.plan.length`), bytes."""

    seconds: float
    source: str
    memory: int


def cost(config: RunConfig, images: Images, history: History, steps: Steps, device: torch.device) -> Cost:
    """What a run takes: its updates, the looks at its stop rule, and its measures along the way and at the end.

    images: what is in use of the data set. history: the chapter's recorded runs. steps: as timed here.
    """
    batch = config.batch_size or images.train
    length = history.length(config, images)
    looks = length.updates // (config.check_every or math.ceil(images.train / batch))
    points = 1 + length.updates // tracking_interval(config) if config.track else 0
    endings = 1 if config.matched_loss is None else 2
    products = history.products(config)
    seconds = (
        length.updates * steps.of(batch) * (SAM if config.sam_rho else 1.0)
        + max(1, looks) * evaluation(images.train, steps)
        + points * measurement_mode(config.track, config, images, products, steps)
        + endings * measurement_mode(config.measures, config, images, products, steps)
    )
    return Cost(seconds, length.source, peak_bytes(config, images, device, steps))


def evaluation(count: int, steps: Steps) -> float:
    """Seconds of loss and accuracy on so many images, which go through by the thousand."""
    return FORWARD * count / CHUNK * steps.of(CHUNK)


def measurement_mode(names: Iterable[str], config: RunConfig, images: Images, products: float, steps: Steps) -> float:
    """Seconds of these measures at one moment; `products` of the Hessian in one largest eigenvalue."""
    gradient = steps.of(min(config.measure_size, images.train))
    known = {"train_loss": evaluation(images.train, steps)}
    known["performance"] = known["train_loss"] + evaluation(images.test, steps)
    known |= dict.fromkeys(ONE_PASS, gradient)
    return sum(known.get(name, products * PRODUCT * gradient) for name in names)
