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

from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.settings import kaur2022_config, with_matched_loss
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs.records import trajectories


def with_alpha(runs: pd.DataFrame) -> pd.DataFrame:
    """Add alpha, the ratio of batch size to learning rate, and its reciprocal, the noise (learning rate per image)."""
    alpha = (runs["batch_size"] / runs["learning_rate"]).round(6)
    return runs.assign(alpha=alpha, noise=1 / alpha)


def tracked(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the points along the tracked runs, with the epoch and the alpha of each."""
    followed = runs[runs["trajectory"].map(bool)]
    if followed.empty:
        raise FlatlibError("no run was tracked")
    points = trajectories(followed)
    per_epoch = np.ceil(points["train_size"].astype(float) / points["batch_size"])
    return with_alpha(points).assign(epoch=points["update"] / per_epoch)


def share_ordered(points: pd.DataFrame) -> pd.Series:
    """Return at which share of the epochs the largest learning rate is flatter than the smallest, per seed.

    Epochs after the start count at which both runs were still in progress.
    """
    points = points[points["update"] > 0]
    lowest, highest = points["learning_rate"].min(), points["learning_rate"].max()
    if lowest == highest:
        raise FlatlibError("learning_rate: the tracked runs share one")
    values = points.pivot_table(index=["seed", "epoch"], columns="learning_rate", values="lambda_max")
    both = values[[lowest, highest]].dropna()
    return (both[highest] < both[lowest]).astype(float).groupby("seed").mean().reindex(np.unique(points["seed"]))


FIXED = Study(settings=("batch_size", "learning_rate"), blocks=("alpha",), prepare=with_alpha)
ACROSS = Study(settings=("batch_size", "learning_rate"), blocks=("batch_size",), prepare=with_alpha)


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: ratio x batch size x seed; those of one ratio are also measured along training."""
    base = kaur2022_config(p)
    runs = []
    for alpha, size in itertools.product(p.alphas, p.batch_sizes):
        config = replace(base, batch_size=size, learning_rate=size / alpha)
        if alpha == p.tracked_alpha:
            every = p.tracked_epochs * math.ceil(p.train_size / size)
            config = replace(config, track=("train_loss", "lambda_max"), track_every=every)
        runs += grid(config, seed=p.seeds)
    return with_matched_loss(runs)


RATIO_MATTERS = Guard(
    "ratio",
    "Across ratios the test accuracy does change: more learning rate per image is better.",
    ACROSS.slope("noise", "test_accuracy"),
    above(0),
)
CLAIM = Claim(
    chapter="02_linear_scaling",
    intervention="learning rate, batch size",
    sentence=(
        "With the ratio of batch size to learning rate held fixed, the test accuracy stays the same, while λ_max falls "
        "as both grow."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.2, Figures 4 and 5",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness (fixed ratio)",
            "At a fixed ratio, λ_max falls as the learning rate and the batch grow together.",
            FIXED.slope("learning_rate", "lambda_max", logy=True),
            below(-0.2),
            "λ_max falls (Figure 4)",
        ),
        Prediction(
            "accuracy (fixed ratio)",
            "At a fixed ratio, test accuracy changes by less than one point per decade.",
            FIXED.slope("learning_rate", "test_accuracy"),
            between(-1, 1),
            "similar accuracies (Figure 4)",
            guards=(RATIO_MATTERS,),
        ),
        Prediction(
            "along training",
            "The larger learning rate has the smaller λ_max at four fifths of the epochs or more.",
            Statistic(Study(prepare=tracked), share_ordered, "share of the epochs"),
            above(0.8),
            "smallest for η = 0.025, largest for η = 0.005, throughout (Figure 5)",
        ),
    ),
)
