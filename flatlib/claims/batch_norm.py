"""Claim 5: batch norm changes the accuracy, and not lambda_max at a fixed learning rate.

Kaur, Cohen, Lipton 2022, section 3.5. Sharpness is the largest lambda_max at eight points between the last iterate
and the next, batch norm in train mode (`flatlib.sharpness.between_iterates`).
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import log2_ratio_by_seed, mean_over_blocks, seed_differences
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import at_batch, complete_cells
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError

CELL = ["model", "batch_size", "learning_rate"]
SAME = ["batch_size", "learning_rate"]


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are measured in train mode; the other modes are there to be laid beside it."""
    return runs[runs["batch_norm"] == "train"]


def by_mode(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with batch norm at the small batch, once for each way that their sharpness was measured: the column
    `how` names it, `lambda_max` has the value."""
    kept = runs[normalized(runs) & (runs["batch_size"] == runs["batch_size"].min())]
    between = compared(kept)
    along = between.assign(lambda_max=between["between_iterates"], how="between iterates")
    return pd.concat([kept.assign(how=kept["batch_norm"]), along], ignore_index=True)


def normalized(runs: pd.DataFrame) -> pd.Series:
    """Which runs trained the network with batch norm."""
    return runs["model"].str.endswith("_bn")


def both(runs: pd.DataFrame) -> pd.DataFrame:
    """Of complete settings, those that count with batch norm and without."""
    networks = runs.groupby(SAME)["model"].transform("nunique")
    kept = runs[networks == 2]
    if kept.empty:
        raise FlatlibError("no batch size and learning rate counts with batch norm and without")
    return kept


def sharpness_distance(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: |doublings of lambda_max| between the network with batch norm and the one without, at the same rate
    (mean over learning rates)."""
    return mean_over_blocks(
        both(at_batch(compared(runs), which, CELL)),
        SAME,
        lambda group: log2_ratio_by_seed(group, "between_iterates", normalized(group), ~normalized(group)).abs(),
    )


def gain(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: points of test accuracy that batch norm adds, at the ``smallest`` or the ``largest`` learning rate that
    counts, as a mean over the batch sizes."""
    kept = both(complete_cells(compared(runs), CELL))
    rates = kept.groupby("batch_size")["learning_rate"]
    rate = rates.transform({"smallest": "min", "largest": "max"}[which])
    return 100 * mean_over_blocks(
        kept[kept["learning_rate"] == rate],
        ["batch_size"],
        lambda group: seed_differences(group, "test_accuracy", normalized(group), ~normalized(group)),
    )


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: with batch norm and without x batch size x learning rate x seed, measured in train mode.

    The runs with batch norm at the small batch are measured in its other two modes as well.
    """
    plain = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        max_epochs=p.max_epochs,
        measure_size=p.measure_size,
        tolerance=0.005,
        batch_norm="train",
        measures=("performance", "lambda_max", "between_iterates", "gradient_norm", "weight_norm"),
    )
    with_norm = replace(plain, model=f"{p.model}_bn")
    axes = {"batch_size": p.batch_sizes, "learning_rate": p.learning_rates, "seed": p.seeds}
    small = replace(with_norm, batch_size=min(p.batch_sizes), measures=("performance", "lambda_max"))
    modes = grid(small, learning_rate=p.learning_rates, batch_norm=["eval", "recalibrated"], seed=p.seeds)
    return grid(plain, **axes) + grid(with_norm, **axes) + modes


CLAIM = Claim(
    experiment=experiment,
    chapter="05_batch_norm",
    intervention="batch norm",
    sentence="At a fixed learning rate, batch norm changes how well a network generalizes, but not its λ_max.",
    source="Kaur, Cohen, Lipton 2022, section 3.5, Figures 10 and 11",
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max with and without batch norm differ by less than a factor of two.",
            lambda runs: sharpness_distance(runs, "small"),
            "doublings of λ_max, either way",
            Rule(high=1),
            "highly similar for most η (Figure 10)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch as well.",
            lambda runs: sharpness_distance(runs, "large"),
            "doublings of λ_max, either way",
            Rule(high=1),
            "equivalent for most η (Figure 11)",
        ),
        Prediction(
            "accuracy (small rate)",
            "At the smallest learning rate, batch norm generalizes worse.",
            lambda runs: gain(runs, "smallest"),
            "points of test accuracy",
            Rule(high=0),
            "worse for small η (Figures 10, 11)",
        ),
        Prediction(
            "accuracy (large rate)",
            "At the largest learning rate, batch norm generalizes better.",
            lambda runs: gain(runs, "largest"),
            "points of test accuracy",
            Rule(low=0),
            "better for large η (Figures 10, 11)",
        ),
    ),
)
