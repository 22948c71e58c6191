"""What determines the result of a run, `RunConfig`; what does not is in `flatlib.execution`."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from flatlib._validation import check_combinations, check_ranges, coerce
from flatlib.errors import FlatlibError, require_one_of
from flatlib.execution import Execution
from flatlib.names import AUGMENTATIONS, CHOICES, DATASETS, MEASURES

__all__ = ["Execution", "RunConfig", "grid"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings that determine the result of one training run and of its measures, checked when they are set.

    A field at its default is not part of the hash, so that a field added later changes no recorded ``run_id``. A
    published default therefore never changes (a test pins them). ``version`` is always hashed.

    Attributes:
        dataset: Name in ``DATASETS``, or path ending in ``.npz`` (x_train, y_train, x_test, y_test).
        train_size: Number of training images, class-balanced, in the data set's order; None for all.
        test_size: Number of test images, chosen in the same way.
        validation_size: Number of further training images that are excluded from training, to choose settings by
            ("performance" then reports ``validation_loss`` and ``validation_accuracy``); None for none.
        data_seed: Seed of a random draw of these images from the training set; None for the first ones. Intervals over
            seeds that also draw the images are about networks and data.
        subset: "balanced" takes images by class; "contiguous" the first ``train_size`` and the first ``test_size``
            images of any class, and validates on the last ``validation_size`` of the training set (Granziol 2020).
        standardize: Give each channel mean 0 and variance 1 on the training images used (Kaur et al. 2022, section 3).
        pixels: Range of the pixels that are not standardized: "unit" is 0 to 1, "symmetric" -1 to 1.
        input_scale: Factor of all images after that; below 1 it brings them closer together (MacDonald et al. 2023,
            appendix C.2).
        model: Name in ``MODELS``.
        width: Factor of the number of channels or hidden units of every layer.
        depth: Number of hidden layers of "mlp".
        activation: Activation function of "mlp".
        dropout: Probability of dropping a unit of the fully connected hidden layers of "mlp" and the VGGs in a training
            step (Kaur et al. 2022, section 3.4); dropout is off in every measure.
        loss: "cross_entropy", "squared", half the squared distance to the targets (Cohen et al. 2021), or
            "batch_softmax", the loss as Bejan et al. 2022 coded it (see :mod:`flatlib.losses`). Every measure is of
            this loss, but of the cross-entropy for "batch_softmax".
        optimizer: Name in ``OPTIMIZERS``, see :mod:`flatlib.training.optim`.
        momentum: Momentum of "heavy_ball" and "nesterov".
        weight_decay: Coefficient $\\gamma$ of weight decay, which is not part of the measured loss (Granziol 2020).
        weight_decay_kind: "l2" adds $\\gamma w$ to the gradient; "decoupled" subtracts it from the weights separately.
        sam_rho: Radius of SAM around the optimizer (Kaur et al. 2022: one perturbation per batch); 0 for none.
        sam_batch: Number of images that share a perturbation (m-SAM); None for the whole batch.
        learning_rate: Initial learning rate.
        schedule: "constant", "granziol", or "granziol_averaging", which falls to `averaging_learning_rate` before the
            averaging starts, set at the start of each epoch (:mod:`flatlib.training.optim.schedules`).
        averaging_start: Fraction of ``max_epochs`` after which the iterates at the ends of the epochs are averaged, and
            their mean measured at the end; None for no averaging.
        averaging_learning_rate: Learning rate while averaging; None for the schedule's.
        batch_size: Images per step; 0 for all training images (full-batch gradient descent).
        microbatch: Images per forward pass, for batches whose graph does not fit in memory; None for all.
        label_smoothing: Share of the targets spread evenly over the classes; the loss, in every measure too, is the
            cross-entropy minus the entropy of the targets (MacDonald et al. 2023), or the squared loss to them.
        jacobian_penalty: Coefficient of the mean squared Frobenius norm of the input-output Jacobian, which is added to
            the training loss only, estimated by one random projection of each image (Hoffman et al. 2019, who call
            twice this coefficient $\\lambda_{JR}$); 0 for none. Every measure is of the loss without it.
        augmentation: Names in ``AUGMENTATIONS``.
        crop_padding: Largest shift by "crop" in pixels: 4 of 32 (He et al. 2016, section 4.2), so 1 of 8.
        mixup: Parameter alpha of mixup's Beta distribution; 0 for none.
        seed: Seed of the initialization, the order of the batches and all other randomness of training.
        stop: Rule that ends the run as "reached": "train_accuracy" at or above ``stop_value`` (0.99 in Kaur et al.
            2022), "train_loss" at or below it, "epochs" = ``max_epochs`` or "updates" = ``max_updates``.
        stop_value: Threshold of the stop rule.
        max_epochs: Epochs after which a run ends as "capped".
        max_updates: Updates after which a run ends as "capped"; None for no limit.
        check_every: Updates between exact evaluations of the stop rule; None for once per epoch.
        measures: Names in ``MEASURES``, evaluated at the end.
        matched_loss: Training loss at which the measures are evaluated once more, at the first check at or below it
            (their names end in ``_at_loss``); None for no such evaluation.
        matched_loss_every: Updates between further checks for `matched_loss` alone, from the first check at or below
            three times that loss on; None for the checks of the stop rule only. With 1 the loss found is within a tenth
            of `matched_loss` where a single update does not lower it by more.
        track: Names of the measures evaluated along the run, from initialization on.
        track_every: Updates between two points of the trajectory.
        track_time: Training time (learning rate times updates) between two points, comparable between learning rates.
        measure_size: Number of evenly strided training images, for curvature (1000 by Kaur et al. 2022).
        batch_norm: Mode of batch norm in curvature measures, see :mod:`flatlib.curvature`.
        engine: Eigenvalue solver, see :mod:`flatlib.curvature`.
        tolerance: Bound of the residual of an eigenvalue relative to it.
        precision: Precision of the products in a training step: "float32", "tf32" (on a GPU) or "bfloat16" (autocast);
            measures are in float32.
        version: Version of the training and measuring code, raised when results change by more than their stated error.
            A measure has its own, in `flatlib.measures.registry.VERSIONS`, which makes no other measure obsolete.
    """

    dataset: str = "digits"
    train_size: int | None = None
    test_size: int | None = None
    validation_size: int | None = None
    data_seed: int | None = None
    subset: str = "balanced"
    standardize: bool = True
    pixels: str = "unit"
    input_scale: float = 1.0
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
    jacobian_penalty: float = 0.0
    augmentation: tuple[str, ...] = ()
    crop_padding: int = 4
    mixup: float = 0.0
    seed: int = 0
    stop: str = "train_accuracy"
    stop_value: float = 0.99
    max_epochs: int = 1000
    max_updates: int | None = None
    check_every: int | None = None
    measures: tuple[str, ...] = ("performance", "lambda_max")
    matched_loss: float | None = None
    matched_loss_every: int | None = None
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
                object.__setattr__(self, name, coerce(name, value, item.type))
        if not self.dataset.endswith(".npz"):
            require_one_of("dataset", self.dataset, (*DATASETS, "a path ending in .npz"))
        for name, allowed in CHOICES.items():
            require_one_of(name, getattr(self, name), allowed)
        for name, allowed in (("measures", MEASURES), ("track", MEASURES), ("augmentation", AUGMENTATIONS)):
            for value in getattr(self, name):
                require_one_of(name, value, allowed)
        check_ranges(self)
        check_combinations(self)

    @property
    def canonical(self) -> str:
        """JSON of the version and of the fields that are not at their default, sorted by name."""
        items = self.__dataclass_fields__.items()
        chosen = {name: getattr(self, name) for name, item in items if getattr(self, name) != item.default}
        return json.dumps(chosen | {"version": self.version}, sort_keys=True, separators=(",", ":"))

    @property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 hash of the canonical JSON."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return every field as a plain JSON value."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """Return the configuration of a record's line; raise `FlatlibError` for a field unknown to this version."""
        for name in values:
            require_one_of("RunConfig field", name, cls.__dataclass_fields__)
        return cls(**values)


def grid(base: RunConfig, **axes: Iterable[Any]) -> list[RunConfig]:
    """Return every combination of the listed values around ``base``; the last axis varies fastest.

    >>> [c.seed for c in grid(RunConfig(), learning_rate=[0.1, 0.2], seed=[0, 1])]
    [0, 1, 0, 1]

    Args:
        base: Gives every setting that is not listed.
        **axes: Lists of values by field name.

    Raises:
        FlatlibError: If a field is unknown, its values are empty or repeated, or `RunConfig` refuses one.
    """
    values: dict[str, list] = {}
    for name, axis in axes.items():
        require_one_of("RunConfig field", name, RunConfig.__dataclass_fields__)
        if isinstance(axis, str) or not isinstance(axis, Iterable):
            raise FlatlibError(f"{name}: expected a list of values, got {axis!r}")
        values[name] = list(axis)
        if not values[name]:
            raise FlatlibError(f"{name}: the list of values is empty, so there is nothing to run")
        if any(value in values[name][:position] for position, value in enumerate(values[name])):
            raise FlatlibError(f"{name}: a value is listed twice in {values[name]}")
    return [replace(base, **dict(zip(values, point, strict=True))) for point in itertools.product(*values.values())]
