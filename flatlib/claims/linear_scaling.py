"""Claim 2: at a fixed ratio of batch size to learning rate, accuracy stays and lambda_max does not.

Kaur, Cohen, Lipton 2022, section 3.2. Alpha is batch size / learning rate; within one alpha, a larger rate goes with
a larger batch.
"""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from flatlib.claims.contrasts import mean_over_blocks
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs.records import trajectories
from flatlib.stats import seed_slopes

CELL = ["batch_size", "learning_rate"]


def with_alpha(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their ratio of batch size to learning rate as a column."""
    return runs.assign(alpha=(runs["batch_size"] / runs["learning_rate"]).round(6))


def counted(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete settings, with their alpha."""
    return with_alpha(complete_cells(runs, CELL))


def sharpness_slope(runs: pd.DataFrame) -> pd.Series:
    """Per seed: decades of lambda_max per decade of learning rate, at fixed alpha (mean over alphas)."""
    return mean_over_blocks(
        counted(runs), ["alpha"], lambda group: seed_slopes(group, "learning_rate", "lambda_max", logy=True)
    )


def accuracy_slope(runs: pd.DataFrame) -> pd.Series:
    """Per seed: percentage points of test accuracy per decade of learning rate, at fixed alpha (mean over alphas)."""
    return 100 * mean_over_blocks(
        counted(runs), ["alpha"], lambda group: seed_slopes(group, "learning_rate", "test_accuracy")
    )


def accuracy_across(runs: pd.DataFrame) -> pd.Series:
    """Per seed: percentage points of test accuracy per decade of learning rate / batch size, at fixed batch size (mean
    over batch sizes). Without a slope here, equal accuracy at equal alpha says nothing about alpha."""
    table = counted(runs).assign(noise=lambda table: 1 / table["alpha"])
    return 100 * mean_over_blocks(table, ["batch_size"], lambda group: seed_slopes(group, "noise", "test_accuracy"))


def tracked(runs: pd.DataFrame) -> pd.DataFrame:
    """The points along the tracked runs, with the epoch and the alpha of each."""
    followed = with_alpha(runs[runs["trajectory"].map(bool)])
    if followed.empty:
        raise FlatlibError("no run was tracked")
    points = trajectories(followed)
    per_epoch = np.ceil(points["train_size"].astype(float) / points["batch_size"])
    return with_alpha(points).assign(epoch=points["update"] / per_epoch)


def share_ordered(runs: pd.DataFrame) -> pd.Series:
    """Per seed: at which share of the epochs, after the start, the largest learning rate of the tracked alpha is
    flatter than the smallest. Epochs at which both runs were still under way count."""
    points = tracked(runs)
    points = points[points["update"] > 0]
    lowest, highest = points["learning_rate"].min(), points["learning_rate"].max()
    if lowest == highest:
        raise FlatlibError("learning_rate: the tracked runs share one")
    values = points.pivot_table(index=["seed", "epoch"], columns="learning_rate", values="lambda_max")
    both = values[[lowest, highest]].dropna()
    return (both[highest] < both[lowest]).astype(float).groupby("seed").mean().reindex(np.unique(points["seed"]))


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: ratio x batch size x seed; those of one ratio are also measured along training."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size,
        model=p.model,
        width=p.width,
        max_epochs=p.max_epochs,
        matched_loss=0.15,
        tolerance=3e-4,
        measures=("performance", "lambda_max", "gradient_norm", "weight_norm"),
    )
    runs = []
    for alpha, size in itertools.product(p.alphas, p.batch_sizes):
        config = replace(base, batch_size=size, learning_rate=size / alpha)
        if alpha == p.tracked_alpha:
            every = p.tracked_epochs * math.ceil(p.train_size / size)
            config = replace(config, track=("train_loss", "lambda_max"), track_every=every)
        runs += grid(config, seed=p.seeds)
    return runs


CLAIM = Claim(
    experiment=experiment,
    chapter="02_linear_scaling",
    intervention="learning rate, batch size",
    sentence=(
        "With the ratio of batch size to learning rate held fixed, the test accuracy stays the same, while λ_max falls "
        "as both grow."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.2, Figures 4 and 5",
    predictions=(
        Prediction(
            "sharpness (fixed ratio)",
            "At a fixed ratio, λ_max falls as the learning rate and the batch grow together.",
            sharpness_slope,
            "decades of λ_max per decade of learning rate",
            Rule(high=-0.2),
            "λ_max falls (Figure 4)",
        ),
        Prediction(
            "accuracy (fixed ratio)",
            "At a fixed ratio, test accuracy changes by less than one point per decade.",
            accuracy_slope,
            "points of test accuracy per decade of learning rate",
            Rule(low=-1, high=1),
            "similar accuracies (Figure 4)",
        ),
        Prediction(
            "accuracy (across ratios)",
            "Across ratios it does change: more learning rate per image is better.",
            accuracy_across,
            "points of test accuracy per decade of learning rate / batch size",
            Rule(low=0),
            "test accuracy depends on the ratio (Figure 4)",
        ),
        Prediction(
            "along training",
            "The larger learning rate has the smaller λ_max at four fifths of the epochs or more.",
            share_ordered,
            "share of the epochs",
            Rule(low=0.8),
            "smallest for η = 0.025, largest for η = 0.005, throughout (Figure 5)",
        ),
    ),
)
