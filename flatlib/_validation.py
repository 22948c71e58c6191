"""Checks of settings: their types, their ranges, and which of them go together."""

import re
import types
import typing
from typing import Any

from flatlib.errors import FlatlibError

WITH_MOMENTUM = ("heavy_ball", "nesterov")
WITH_DECOUPLED_DECAY = ("sgd", "adam", "adamw", "adabound")
LARGEST_SEED = 2**62  # torch's generators take 63 bits, and the order of the batches has a seed of its own
AT_LEAST_ONE = (
    *("train_size", "test_size", "validation_size", "depth", "max_epochs", "max_updates", "microbatch", "sam_batch"),
    *("check_every", "track_every", "matched_loss_every", "measure_size", "crop_padding", "version"),
)
SEEDS = ("seed", "data_seed")
POSITIVE = (
    *("learning_rate", "averaging_learning_rate", "width", "stop_value", "matched_loss", "track_time", "tolerance"),
    "input_scale",
)
FRACTIONS = ("momentum", "label_smoothing", "dropout", "averaging_start")
NOT_NEGATIVE = ("weight_decay", "sam_rho", "mixup", "jacobian_penalty")
RANGES = (  # names, condition, description; NaN fulfils no condition
    (AT_LEAST_ONE, lambda value: value >= 1, "must be at least 1"),
    (
        ("batch_size", "seed", "data_seed"),
        lambda value: 0 <= value <= LARGEST_SEED,
        "must be at least 0 and at most 2**62",
    ),
    (POSITIVE, lambda value: 0 < value < float("inf"), "must be positive and finite"),
    (FRACTIONS, lambda value: 0 <= value < 1, "must be at least 0 and below 1"),
    (NOT_NEGATIVE, lambda value: 0 <= value < float("inf"), "must be finite and not negative"),
)


def coerce(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as the annotated type of field `name`; only NumPy scalars, lists and whole numbers convert."""
    value = value.item() if hasattr(value, "item") and getattr(value, "shape", ()) == () else value
    if isinstance(kind, types.UnionType):
        return None if value is None else coerce(name, value, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise FlatlibError(f"{name}: expected a list of names, got {value!r}")
        names = tuple(coerce(name, item, str) for item in value)
        if len(set(names)) < len(names):
            raise FlatlibError(f"{name}: a name is listed twice in {list(value)}")
        return names
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise FlatlibError(f"{name}: {str(value)[:9]}... is too large") from None
    if type(value) is not kind:
        raise FlatlibError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def check_device_name(name: Any) -> None:
    """Raise a `FlatlibError` unless the name is one of auto, cpu, cuda and cuda:N."""
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise FlatlibError(f"device: unknown name {name!r}; allowed: auto, cpu, cuda, cuda:N")


def check_ranges(config: Any) -> None:
    """Raise a `FlatlibError` if a number of a `RunConfig` is out of its range."""
    for names, holds, description in RANGES:
        for name in names:
            value = getattr(config, name)
            if value is not None and not holds(value):
                raise FlatlibError(f"{name}: {description}, got {value}")


def check_combinations(config: Any) -> None:
    """Raise a `FlatlibError` if settings of a `RunConfig` do not go together."""
    if config.stop == "train_accuracy" and config.stop_value > 1:
        raise FlatlibError(f"stop_value: a train accuracy is at most 1, got {config.stop_value}")
    if config.train_size is not None and config.batch_size > config.train_size:
        raise FlatlibError(f"batch_size: {config.batch_size} is more than the {config.train_size} training images")
    if config.standardize and config.pixels != "unit":
        raise FlatlibError("pixels: have no effect on standardized images; set standardize to false")
    if config.data_seed is not None and (config.train_size is None or config.subset != "balanced"):
        raise FlatlibError("data_seed: draws a balanced subset of train_size images; set these, or leave it at None")
    if bool(config.track) != ((config.track_every is None) != (config.track_time is None)):
        raise FlatlibError("track: goes with exactly one of track_every and track_time")
    if config.model != "mlp" and (config.depth, config.activation) != (2, "relu"):
        raise FlatlibError(f"depth, activation: apply to mlp only, the model is {config.model}")
    if config.dropout and not config.model.startswith(("mlp", "vgg")):
        raise FlatlibError(f"dropout: applies to mlp and the VGGs only, the model is {config.model}")
    if (config.momentum > 0) != (config.optimizer in WITH_MOMENTUM):
        raise FlatlibError(f"momentum: must be positive with {' and '.join(WITH_MOMENTUM)}, and 0 with the others")
    if config.weight_decay_kind == "decoupled" and config.optimizer not in WITH_DECOUPLED_DECAY:
        raise FlatlibError(f"weight_decay_kind: decoupled goes with {', '.join(WITH_DECOUPLED_DECAY)}")
    if config.optimizer == "adamw" and config.weight_decay_kind == "l2" and config.weight_decay > 0:
        raise FlatlibError("weight_decay_kind: adamw is decoupled; use adam for l2")
    if config.optimizer == "adashift" and config.weight_decay > 0:
        raise FlatlibError("weight_decay: adashift has none")
    if config.loss == "batch_softmax" and (config.label_smoothing or config.mixup or config.microbatch):
        raise FlatlibError(f"loss: {config.loss} has hard targets and whole batches: no smoothing, mixup or microbatch")
    if config.jacobian_penalty and (config.sam_rho or config.loss == "batch_softmax"):
        raise FlatlibError("jacobian_penalty: goes with neither sam_rho nor batch_softmax")
    if "crop" not in config.augmentation and config.crop_padding != 4:
        raise FlatlibError("crop_padding: needs the augmentation crop")
    if config.matched_loss is None and config.matched_loss_every is not None:
        raise FlatlibError("matched_loss_every: needs a matched_loss")
    if config.sam_batch is not None and not config.sam_rho:
        raise FlatlibError("sam_batch: needs a sam_rho")
    if config.averaging_start is None and config.averaging_learning_rate is not None:
        raise FlatlibError("averaging_learning_rate: needs averaging_start")
    if config.schedule == "granziol_averaging" and config.averaging_learning_rate is None:
        raise FlatlibError("schedule: granziol_averaging falls to the averaging_learning_rate, which is missing")
    if config.averaging_start is not None and config.stop != "epochs":
        raise FlatlibError('averaging_start: needs stop="epochs", which defines when the average is complete')
    if config.stop == "updates" and config.max_updates is None:
        raise FlatlibError("max_updates: missing, the stop rule updates needs it")
    if config.schedule != "constant" and config.max_updates is not None:
        raise FlatlibError("schedule: runs over max_epochs; leave max_updates at None")
