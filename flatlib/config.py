"""What determines a result.

A `RunConfig` is checked when it is built, so that a typing error costs a second and not a night. Its `run_id` is a
hash of its canonical JSON: the same settings have the same name on every machine, and a record finds them again.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from flatlib._validation import check_optimization, check_ranges, checked, one_of
from flatlib.errors import FlatlibError

__all__ = ["RunConfig", "grid"]

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10-jpeg")
MODELS = (
    *("softmax_regression", "mlp", "small_cnn", "small_cnn_bn", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18"),
    *("preresnet164", "wideresnet28x10", "allcnn", "bejan_simple", "bejan_middle", "bejan_complex"),
)
MEASURES = (
    *("performance", "train_loss", "lambda_max", "lambda_min", "gauss_newton_lambda_max", "between_iterates"),
    *("trace", "frobenius", "density", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness", "keskar_sharpness"),
    *("gradient_norm", "weight_norm", "margin", "jacobian_norm", "softmax_jacobian_norm"),
)
LOSSES = ("cross_entropy", "batch_softmax")
OPTIMIZERS = ("sgd", "heavy_ball", "nesterov", "adam", "adamw", "adagrad", "adashift", "adabound")
AUGMENTATIONS = ("flip", "crop")
CHOICES = {
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "weight_decay_kind": ("l2", "decoupled"),
    "schedule": ("constant", "granziol"),
    "activation": ("relu", "tanh"),
    "stop": ("train_accuracy", "train_loss", "epochs", "updates"),
    "batch_norm": ("eval", "train", "recalibrated"),
    "engine": ("lanczos", "pyhessian"),
    "precision": ("float32", "tf32", "bfloat16"),
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines the result of one training run and its measures.

    A field at its default is left out of the hash: a field added later leaves every recorded `run_id` as it was.
    The price is that a default, once published, never changes (a test pins them); `version` is always hashed.

    Attributes:
        dataset: a name in `DATASETS`, or a path ending in ``.npz`` (x_train, y_train, x_test, y_test).
        train_size, test_size: how many images, class-balanced, in the data set's order; None takes all.
        validation_size: so many further images of the training set are kept out of training, to choose settings by
            (`performance` then has ``validation_loss`` and ``validation_accuracy``); None for none.
        standardize: subtract the mean and divide by the standard deviation of each channel of the training images
            in use (Kaur et al. 2022, section 3).
        model: a name in `MODELS`; `width` multiplies its channels or hidden units. `depth` (hidden layers) and
            `activation` apply to ``mlp``.
        dropout: probability with which a unit of the fully connected hidden layers is dropped in a training step, for
            ``mlp`` and the VGGs (Kaur et al. 2022, section 3.4); every measure is taken with dropout off.
        loss: what is trained on: ``cross_entropy``, or ``batch_softmax``, the loss as Bejan et al. 2022 coded it (see
            `flatlib.losses`). Every measure is of the cross-entropy.
        optimizer: a name in `OPTIMIZERS`, see `flatlib.training.optim`; `momentum` goes with ``heavy_ball`` and ``nesterov``.
        weight_decay, weight_decay_kind: gamma, added to the gradient as gamma w (``l2``) or taken off the weights
            beside the step (``decoupled``). It is not part of the loss whose curvature is measured (Granziol 2020).
        sam_rho: radius of SAM around the optimizer, 0 for none; its perturbation is that of the whole batch (Kaur et
            al. 2022) or, with `sam_batch`, of each group of so many images (m-SAM).
        learning_rate, schedule: constant, or ``granziol``, set at the start of each epoch (`flatlib.training.optim.schedules`).
        averaging_start: from this share of `max_epochs` on, the iterates at the end of each epoch are averaged, at
            `averaging_learning_rate` if there is one, and the average is what is measured at the end; None for none.
        batch_size: images a step; 0 takes all training images: full-batch gradient descent. `microbatch` images go
            through at a time (None: all), for batches whose graph does not fit.
        label_smoothing: share of the target spread evenly; the loss is then cross-entropy less the entropy of the
            targets (MacDonald et al. 2023), in every measure as well.
        augmentation: names in `AUGMENTATIONS`; `mixup`: alpha of its Beta distribution, 0 for none.
        seed: initialisation, order of the batches, and all that is random in training.
        stop: what ends the run as ``reached``: ``train_accuracy`` >= `stop_value` (0.99 in Kaur et al. 2022),
            ``train_loss`` <= `stop_value`, ``epochs`` = `max_epochs` or ``updates`` = `max_updates`. Past either
            limit a run is ``capped``.
        check_every: updates between two exact evaluations of the stop rule; None checks at the end of each epoch.
        measures: names in `MEASURES`, taken at the end. With `matched_loss` they are taken as well at the first
            check where the training loss is at or below it (names end in ``_at_loss``).
        track: measures taken along the run, from initialisation on, every `track_every` updates or every `track_time`
            of time, which is learning rate times updates (runs at different rates can then be laid over each other).
        measure_size: curvature is that of so many evenly strided training images (1000 in the code of Kaur et al.).
        batch_norm, engine, tolerance: how the curvature is measured, see `flatlib.curvature`; `tolerance` bounds
            the residual of an eigenvalue relative to it.
        precision: of products in a training step: ``tf32`` (on a GPU) or ``bfloat16`` (autocast); measures are float32.
        version: of the training and measuring code. It is raised on purpose when results change by more than the error
            that they state: another order of the same sums is the same result.
    """

    dataset: str = "digits"
    train_size: int | None = None
    test_size: int | None = None
    validation_size: int | None = None
    standardize: bool = True
    model: str = "mlp"
    width: float = 1.0
    depth: int = 2
    activation: str = "relu"
    dropout: float = 0.0
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    weight_decay_kind: str = "l2"
    sam_rho: float = 0.0
    sam_batch: int | None = None
    learning_rate: float = 0.1
    schedule: str = "constant"
    averaging_start: float | None = None
    averaging_learning_rate: float | None = None
    batch_size: int = 50
    microbatch: int | None = None
    label_smoothing: float = 0.0
    augmentation: tuple[str, ...] = ()
    mixup: float = 0.0
    seed: int = 0
    stop: str = "train_accuracy"
    stop_value: float = 0.99
    max_epochs: int = 1000
    max_updates: int | None = None
    check_every: int | None = None
    measures: tuple[str, ...] = ("performance", "lambda_max")
    matched_loss: float | None = None
    track: tuple[str, ...] = ()
    track_every: int | None = None
    track_time: float | None = None
    measure_size: int = 1000
    batch_norm: str = "eval"
    engine: str = "lanczos"
    tolerance: float = 1e-3
    precision: str = "float32"
    version: int = 1

    def __post_init__(self) -> None:
        for name, item in self.__dataclass_fields__.items():
            value = getattr(self, name)
            if value is not item.default and type(value) is not item.type:
                object.__setattr__(self, name, checked(name, value, item.type))
        if not self.dataset.endswith(".npz") and self.dataset not in DATASETS:
            raise FlatlibError(
                f"dataset: unknown name {self.dataset!r}; allowed: {', '.join(DATASETS)}, or a path ending in .npz"
            )
        for name, allowed in CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name in ("measures", "track"):
            for value in getattr(self, name):
                one_of(name, value, MEASURES)
        for name in self.augmentation:
            one_of("augmentation", name, AUGMENTATIONS)
        check_ranges(self)
        check_optimization(self)

    @property
    def canonical(self) -> str:
        """The fields that are not at their default, and the version, as JSON in the order of their names."""
        items = self.__dataclass_fields__.items()
        chosen = {name: getattr(self, name) for name, item in items if getattr(self, name) != item.default}
        return json.dumps(chosen | {"version": self.version}, sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits that name this configuration."""
        return run_id_of(self.canonical)

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """The configuration a record line holds; a field this version does not know is an error, not a guess."""
        return cls(**known_fields(values))


def run_id_of(canonical: str) -> str:
    """The name of the configuration with this canonical JSON."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def known_fields(names: dict[str, Any]) -> dict[str, Any]:
    """`names`, if each is a field of `RunConfig`."""
    for name in names:
        one_of("RunConfig field", name, RunConfig.__dataclass_fields__)
    return names


def grid(base: RunConfig, **axes: Iterable[Any]) -> list[RunConfig]:
    """Every combination of the listed values around `base`; the last axis varies fastest.

    >>> [c.seed for c in grid(RunConfig(), learning_rate=[0.1, 0.2], seed=[0, 1])]
    [0, 1, 0, 1]

    Args:
        base: gives every setting that is not listed.
        axes: names of `RunConfig`'s fields, each with its list of values.

    Raises:
        FlatlibError: an unknown field, an axis that is empty, no list or lists a value twice, and what `RunConfig`
            refuses.
    """
    known_fields(axes)
    values = {}
    for name, axis in axes.items():
        if isinstance(axis, str) or not isinstance(axis, Iterable):
            raise FlatlibError(f"{name}: expected a list of values, got {axis!r}")
        values[name] = list(axis)
        if not values[name]:
            raise FlatlibError(f"{name}: the list of values is empty, so there is nothing to run")
        if any(value in values[name][:position] for position, value in enumerate(values[name])):
            raise FlatlibError(f"{name}: a value is listed twice in {values[name]}")
    return [replace(base, **dict(zip(values, point, strict=True))) for point in itertools.product(*values.values())]
