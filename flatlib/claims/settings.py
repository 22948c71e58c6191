"""Run settings that several claims share."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from flatlib.config import RunConfig

# Sharpness measures beside lambda_max.
OTHER_SHARPNESS = (
    *("trace", "frobenius", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness"),
    "normalized_adaptive_sharpness",
)
JACOBIANS = ("jacobian_norms",)  # of the logits and of the probabilities, each its largest and its mean
CLOSE = 20  # checks for the matched loss in an epoch of many updates; else one after each of them
SIZES = ("gradient_norm", "weight_norm")


def base_config(p: SimpleNamespace, **fixed: Any) -> RunConfig:
    """Return a configuration with those parameters of a chapter that are settings of a run.

    Args:
        p: The chapter's parameters. One of 0 is None where the setting may be None; those that do not apply, such as
            those of an MLP for another network, are dropped.
        **fixed: Further settings, which take precedence.
    """
    fields = RunConfig.__dataclass_fields__
    optional = {name for name, field in fields.items() if field.default is None}
    settings: dict[str, Any] = {name: value for name, value in vars(p).items() if name in fields}
    settings = {name: value or None if name in optional else value for name, value in settings.items()} | fixed
    unused = set() if settings.get("model", "mlp") == "mlp" else {"activation", "depth"}
    unused |= set() if "crop" in settings.get("augmentation", ()) else {"crop_padding"}
    unused |= set() if settings.get("matched_loss") else {"matched_loss_every"}
    return RunConfig(**{name: value for name, value in settings.items() if name not in unused})


def with_own_images(runs: list[RunConfig]) -> list[RunConfig]:
    """Return the runs, each seed on training images of its own, where these are a part of all that is drawn."""
    drawn = [bool(run.train_size) and run.subset == "balanced" for run in runs]
    return [replace(run, data_seed=run.seed) if own else run for run, own in zip(runs, drawn, strict=True)]


def with_matched_loss(runs: list[RunConfig]) -> list[RunConfig]:
    """Return the runs, each seed on images of its own, measured at a training loss of 0.15 as well."""
    found = []
    for run in with_own_images(runs):
        images = run.train_size or 50_000
        every = max(1, images // (run.batch_size or images) // CLOSE)
        found.append(replace(run, matched_loss=0.15, matched_loss_every=every))
    return found


def kaur2022_config(p: SimpleNamespace, *sharpness: str) -> RunConfig:
    """Return the setting of Kaur et al. 2022: plain SGD to 99 % training accuracy."""
    measures = ("performance", "lambda_max", "batch_sharpness", *sharpness, *JACOBIANS, *SIZES)
    return base_config(p, tolerance=3e-4, measures=measures)
