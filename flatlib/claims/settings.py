"""Run settings that several claims share."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from flatlib.config import RunConfig

# Sharpness measures beside lambda_max.
OTHER_SHARPNESS = ("trace", "frobenius", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness")
JACOBIANS = ("jacobian_norms",)  # of the logits and of the probabilities, each its largest and its mean
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
    """Return the runs, each seed on training images of its own, if these are a class-balanced part of the data set."""
    drawn = [bool(run.train_size) and run.subset == "balanced" for run in runs]
    return [replace(run, data_seed=run.seed) if own else run for run, own in zip(runs, drawn, strict=True)]


def kaur2022_config(p: SimpleNamespace, *sharpness: str) -> RunConfig:
    """Return the setting of Kaur et al. 2022: plain SGD to 99 % training accuracy, measured at equal loss as well."""
    measures = ("performance", "lambda_max", *sharpness, "gradient_norm", "weight_norm")
    return base_config(p, matched_loss=0.15, tolerance=3e-4, measures=measures)
