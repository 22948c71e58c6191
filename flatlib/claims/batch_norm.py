"""Claim 5: batch norm changes the accuracy, and not lambda_max at a fixed learning rate.

Kaur, Cohen, Lipton 2022, section 3.5. Sharpness is the largest lambda_max at eight points between the last iterate
and the next, batch norm in train mode (``flatlib.sharpness.between_iterates``).
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.prediction import Claim, Guard, Prediction, above, below
from flatlib.claims.settings import JACOBIANS, SIZES, base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs measured in train mode, which the claim compares, and which trained with batch norm."""
    kept = runs[runs["batch_norm"] == "train"]
    return kept.assign(normalized=kept["model"].str.endswith("_bn"))


def by_mode(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with batch norm at the small batch once for each way (``how``) to measure ``lambda_max``."""
    kept = runs[runs["model"].str.endswith("_bn") & (runs["batch_size"] == runs["batch_size"].min())]
    between = compared(kept)
    along = between.assign(lambda_max=between["between_iterates"], how="between iterates")
    return pd.concat([kept.assign(how=kept["batch_norm"]), along], ignore_index=True)


SETTINGS = ("model", "batch_size", "learning_rate")
SAME_RATE = Study(SETTINGS, blocks=("batch_size", "learning_rate"), paired="model", prepare=compared)
SAME_BATCH = Study(SETTINGS, blocks=("batch_size",), paired="model", prepare=compared)


def distance(study: Study) -> Statistic:
    """Return how far lambda_max with batch norm is from that without, in either direction."""
    ratio = study.log2_ratio("between_iterates", "normalized", "not normalized")
    return ratio.map_blocks(pd.Series.abs, "doublings of λ_max, either way")


def gain_at(rate: str) -> Statistic:
    """Return the test accuracy that batch norm adds at the "min" or the "max" learning rate, over the batch sizes.

    A batch size with a single rate has neither a smallest nor a largest one.
    """
    extreme = f"learning_rate == learning_rate.{rate}()"
    several = replace(SAME_BATCH, prepare=lambda runs: several_rates(compared(runs)))
    return several.difference("test_accuracy", f"normalized and {extreme}", f"not normalized and {extreme}")


def several_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at batch sizes with two or more learning rates that count; refuse a table without one."""
    counts = SAME_RATE.select(runs).groupby("batch_size")["learning_rate"].nunique()
    if not (counts > 1).any():
        raise FlatlibError("learning_rate: a smallest and a largest one are two; only one counts")
    return runs[runs["batch_size"].isin(counts.index[counts > 1])]


def smallest_rate(runs: pd.DataFrame) -> pd.Series:
    """Return each seed's smallest learning rate."""
    return runs.groupby("seed")["learning_rate"].min()


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: with batch norm and without x batch size x learning rate x seed, measured in train mode.

    The runs with batch norm at the small batch are measured in its other two modes as well.
    """
    measures = ("performance", "lambda_max", "between_iterates", "batch_sharpness", *JACOBIANS, *SIZES)
    plain = base_config(p, tolerance=0.005, batch_norm="train", measures=measures)
    with_norm = replace(plain, model=f"{p.model}_bn")
    axes = {"batch_size": p.batch_sizes, "learning_rate": p.learning_rates, "seed": p.seeds}
    small = replace(with_norm, batch_size=min(p.batch_sizes), measures=("performance", "lambda_max"))
    modes = grid(small, learning_rate=p.learning_rates, batch_norm=["eval", "recalibrated"], seed=p.seeds)
    return with_own_images(grid(plain, **axes) + grid(with_norm, **axes) + modes)


REACH = Guard(
    "reach",
    "The learning rates go below 0.01: the paper's small ones go to 0.001.",
    Statistic(SAME_BATCH, smallest_rate, "smallest learning rate"),
    below(0.01),
)
CLAIM = Claim(
    chapter="05_batch_norm",
    intervention="batch norm",
    sentence="At a fixed learning rate, batch norm changes how well a network generalizes, but not its λ_max.",
    source="Kaur, Cohen, Lipton 2022, section 3.5, Figures 10 and 11",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max with and without batch norm differ by less than a factor of two.",
            distance(SAME_RATE.at("small")),
            below(1),
            "highly similar for most η (Figure 10)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch as well.",
            distance(SAME_RATE.at("large")),
            below(1),
            "equivalent for most η (Figure 11)",
        ),
        Prediction(
            "accuracy (small rate)",
            "At the smallest learning rate, batch norm generalizes worse.",
            gain_at("min"),
            below(0),
            "worse for small η (Figures 10, 11)",
            guards=(REACH,),
            smallest=1,
        ),
        Prediction(
            "accuracy (large rate)",
            "At the largest learning rate, batch norm generalizes better.",
            gain_at("max"),
            above(0),
            "better for large η (Figures 10, 11)",
            smallest=1,
        ),
    ),
)
