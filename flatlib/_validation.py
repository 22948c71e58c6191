"""What a setting may be: its kind, its name, and the settings that it goes with."""

import types
import typing
from collections.abc import Iterable
from typing import Any

from flatlib.errors import FlatlibError

if typing.TYPE_CHECKING:
    from flatlib.config import RunConfig

WITH_MOMENTUM = ("heavy_ball", "nesterov")
WITH_DECOUPLED_DECAY = ("sgd", "adam", "adamw", "adabound")
MINIMUM = {  # inclusive where the value makes sense, otherwise `learning_rate` and `width` say so themselves
    "train_size": 1,
    "test_size": 1,
    "validation_size": 1,
    "depth": 1,
    "batch_size": 0,
    "seed": 0,
    "max_epochs": 1,
    "max_updates": 1,
    "microbatch": 1,
    "sam_batch": 1,
    "check_every": 1,
    "track_every": 1,
    "measure_size": 1,
    "version": 1,
}
LARGEST_SEED = 2**62  # torch's generators take 63 bits, and the order of the batches has a seed of its own
POSITIVE = (
    *("learning_rate", "width", "stop_value", "matched_loss", "track_time", "tolerance", "averaging_learning_rate"),
)
SHARES = ("momentum", "label_smoothing", "dropout", "averaging_start")
NOT_NEGATIVE = ("weight_decay", "sam_rho", "mixup")


def checked(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated `kind` of field `name`; a whole number may stand for a float, nothing else converts."""
    value = value.item() if hasattr(value, "item") and getattr(value, "shape", ()) == () else value
    if isinstance(kind, types.UnionType):
        return None if value is None else checked(name, value, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise FlatlibError(f"{name}: expected a list of names, got {value!r}")
        names = tuple(checked(name, item, str) for item in value)
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


def one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a `FlatlibError` that names the field and what is allowed, unless `value` is allowed."""
    if value not in allowed:
        raise FlatlibError(f"{name}: unknown name {value!r}; allowed: {', '.join(allowed)}")


def check_ranges(config: "RunConfig") -> None:
    """Raise a `FlatlibError` for a number out of its range, and for settings that do not go together."""
    for name, least in MINIMUM.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise FlatlibError(f"{name}: must be at least {least}, got {value}")
    if config.seed > LARGEST_SEED:
        raise FlatlibError(f"seed: must be at most 2**62, got {config.seed}")
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise FlatlibError(f"{name}: must be positive and finite, got {value}")
    for name in SHARES:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise FlatlibError(f"{name}: must be at least 0 and below 1, got {value}")
    for name in NOT_NEGATIVE:
        if not 0 <= getattr(config, name) < float("inf"):
            raise FlatlibError(f"{name}: must be finite and not negative, got {getattr(config, name)}")
    if config.stop == "train_accuracy" and config.stop_value > 1:
        raise FlatlibError(f"stop_value: a train accuracy is at most 1, got {config.stop_value}")
    if config.train_size is not None and config.batch_size > config.train_size:
        raise FlatlibError(f"batch_size: {config.batch_size} is more than the {config.train_size} training images")
    if bool(config.track) != ((config.track_every is None) != (config.track_time is None)):
        raise FlatlibError("track: goes with exactly one of track_every and track_time")
    if config.model != "mlp" and (config.depth, config.activation) != (2, "relu"):
        raise FlatlibError(f"depth, activation: apply to mlp only, the model is {config.model}")
    if config.dropout and not config.model.startswith(("mlp", "vgg")):
        raise FlatlibError(f"dropout: applies to mlp and the VGGs only, the model is {config.model}")


def check_optimization(config: "RunConfig") -> None:
    """Raise a `FlatlibError` for settings of how the weights move that do not fit together."""
    if (config.momentum > 0) != (config.optimizer in WITH_MOMENTUM):
        raise FlatlibError(f"momentum: goes with {' and '.join(WITH_MOMENTUM)}, and with these it must be positive")
    if config.weight_decay_kind == "decoupled" and config.optimizer not in WITH_DECOUPLED_DECAY:
        raise FlatlibError(f"weight_decay_kind: decoupled goes with {', '.join(WITH_DECOUPLED_DECAY)}")
    if config.optimizer == "adamw" and config.weight_decay_kind == "l2" and config.weight_decay > 0:
        raise FlatlibError("weight_decay_kind: adamw is decoupled; use adam for l2")
    if config.optimizer == "adashift" and config.weight_decay > 0:
        raise FlatlibError("weight_decay: adashift has none")
    if config.loss != "cross_entropy" and (config.label_smoothing or config.mixup or config.microbatch):
        raise FlatlibError(f"loss: {config.loss} has hard targets and whole batches: no smoothing, mixup or microbatch")
    if config.sam_batch is not None and not config.sam_rho:
        raise FlatlibError("sam_batch: goes with a sam_rho")
    if config.averaging_start is None and config.averaging_learning_rate is not None:
        raise FlatlibError("averaging_learning_rate: goes with averaging_start")
    if config.averaging_start is not None and config.stop != "epochs":
        raise FlatlibError('averaging_start: goes with stop="epochs", which says when the average is complete')
    if (config.stop == "updates") and config.max_updates is None:
        raise FlatlibError("max_updates: the stop rule updates needs it")
    if config.schedule != "constant" and config.max_updates is not None:
        raise FlatlibError("schedule: runs over max_epochs; leave max_updates at None")
