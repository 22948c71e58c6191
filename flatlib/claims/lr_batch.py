"""Claim 1: large learning rates are flatter at every batch size, and generalize better only at a small one.

Kaur, Cohen, Lipton 2022, section 3.1. "Small" and "large" are the smallest and the largest batch among the runs. At
the large one, gradient descent stays near the edge of stability: lambda_max is about 2 / learning rate.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.settings import OTHER_SHARPNESS, kaur2022_config, with_matched_loss
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.stats import log10_column, seed_slopes

LR_BATCH = Study(settings=("batch_size", "learning_rate"))
SMALL, LARGE = LR_BATCH.at("small"), LR_BATCH.at("large")
NEAR_EDGE = between(0.7, 1.5)  # in units of 2 / learning rate
TOP = 3  # learning rates at the end of the grid, beyond "some point" if it is long enough
SHARPNESS, ACCURACY = ("learning_rate", "lambda_max"), ("learning_rate", "test_accuracy")


def distance_to_edge(large: pd.DataFrame) -> pd.Series:
    """Return each seed's median over learning rates of lambda_max x learning rate / 2."""
    return (large["lambda_max"] * large["learning_rate"] / 2).groupby(large["seed"]).median()


def slope_at_the_top(large: pd.DataFrame) -> pd.Series:
    """Return each seed's slope of test accuracy per decade of learning rate, over the ``TOP`` largest rates."""
    rates = sorted(large["learning_rate"].unique())[-TOP:]
    return seed_slopes(large[large["learning_rate"].isin(rates)], *ACCURACY)


def grid_is_long_enough(runs: pd.DataFrame) -> pd.Series:
    """Return for each seed 1 if the large batch's learning rates go past its best one, or to where training fails.

    Training fails at a rate larger than all that count, those that every seed finished. Else it is 0: what comes after
    the last rate, a plateau or a further rise, is not known.
    """
    large = LARGE.select(runs)
    largest = large["learning_rate"].max()
    of_batch = runs[runs["batch_size"] == runs["batch_size"].max()]
    best = large.groupby("seed").apply(lambda of_seed: of_seed["learning_rate"][of_seed["test_accuracy"].idxmax()])
    return ((best < largest) | (of_batch["learning_rate"].max() > largest)).astype(float)


def accuracy_at_equal_sharpness(runs: pd.DataFrame) -> pd.Series:
    """Return by how much each seed's small batch is more accurate than its large one, at the same lambda_max.

    The accuracies are interpolated over log lambda_max (runs of equal lambda_max at their mean), subtracted and
    averaged over the range that both batch sizes reach; NaN for a seed whose ranges do not overlap.
    """
    small, large = SMALL.select(runs), LARGE.select(runs)
    if small.empty or large.empty:
        raise FlatlibError("batch_size: the claim compares at least two")
    seeds = sorted({*small["seed"], *large["seed"]})
    of_small, of_large = accuracy_curves(small), accuracy_curves(large)
    return pd.Series([mean_gap(of_small.get(seed), of_large.get(seed)) for seed in seeds], index=seeds, dtype=float)


def accuracy_curves(runs: pd.DataFrame) -> dict[int, pd.Series]:
    """Return each seed's test accuracy by log10 lambda_max, ascending."""
    points = runs[["seed"]].assign(x=log10_column(runs, "lambda_max"), y=runs["test_accuracy"].astype(float))
    points = points[np.isfinite(points[["x", "y"]]).all(axis=1)]
    return {seed: of_seed.groupby("x")["y"].mean() for seed, of_seed in points.groupby("seed")}


def mean_gap(high: pd.Series | None, low: pd.Series | None) -> float:
    """Return the mean difference of two piecewise linear curves over their common range, exactly."""
    if high is None or low is None:
        return np.nan
    start, stop = max(high.index[0], low.index[0]), min(high.index[-1], low.index[-1])
    if not start < stop:
        return np.nan
    knots = np.unique(np.clip(np.concatenate([high.index, low.index]), start, stop))
    gap = np.interp(knots, high.index, high) - np.interp(knots, low.index, low)
    return float(np.trapezoid(gap, knots) / (stop - start))


def gauss_newton_share(runs: pd.DataFrame) -> pd.Series:
    """Return for each seed how large the top eigenvalue of the Gauss-Newton matrix is beside lambda_max, in percent.

    MacDonald et al. 2023 assume that it determines the Hessian's (equations 3 and 4). No numbers without the measure.
    """
    if "gauss_newton_lambda_max" not in runs:
        return pd.Series(dtype=float)
    kept = LR_BATCH.select(runs)
    share = 100 * kept["gauss_newton_lambda_max"].astype(float) / kept["lambda_max"].astype(float)
    return share.groupby(kept["seed"]).mean()


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x seed, plain SGD to 99 % training accuracy."""
    base = kaur2022_config(p, "gauss_newton_lambda_max", *OTHER_SHARPNESS)
    runs = grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, seed=p.seeds)
    return with_matched_loss(runs)


REACH = Guard(
    "reach",
    "At the large batch the learning rates go past the best one, or to where training fails: the paper speaks of what "
    "is beyond some point.",
    Statistic(Study(), grid_is_long_enough, "share of the seeds"),
    above(0.5),
)
CLAIM = Claim(
    chapter="01_lr_batch",
    intervention="learning rate, batch size",
    sentence=(
        "Larger learning rates find smaller λ_max at every batch size, but they generalize better only when the "
        "batch is small."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.1, Figures 1-3",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max falls with the learning rate.",
            SMALL.slope(*SHARPNESS, logy=True),
            below(-0.2),
            "λ_max falls (Figure 1)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch, λ_max falls with the learning rate as well.",
            LARGE.slope(*SHARPNESS, logy=True),
            below(-0.2),
            "λ_max falls along 2/η, slope -1 (Figure 1)",
        ),
        Prediction(
            "edge of stability",
            "At the large batch, λ_max ends near 2/η.",
            Statistic(LARGE, distance_to_edge, "λ_max η / 2"),
            NEAR_EDGE,
            "on the line 2/η (Figure 1)",
        ),
        Prediction(
            "accuracy (small batch)",
            "At the small batch, test accuracy rises with the learning rate.",
            SMALL.slope(*ACCURACY),
            above(0),
            "accuracy rises (Figure 1)",
            smallest=1,
        ),
        Prediction(
            "accuracy (large batch)",
            "At the large batch, test accuracy does not rise beyond some point: over the three largest learning rates "
            "by less than half a point per decade.",
            Statistic(LARGE, slope_at_the_top, "points of test accuracy per decade, at the largest rates", scale=100),
            below(0.5),
            "accuracy plateaus beyond some point (Figure 1)",
            guards=(REACH,),
        ),
        Prediction(
            "contrast",
            "The learning rate helps accuracy more at the small batch than at the large one.",
            SMALL.slope(*ACCURACY) - LARGE.slope(*ACCURACY),
            above(0),
            "the benefit fades as the batch grows (Figure 3)",
            smallest=1,
        ),
        Prediction(
            "equal sharpness",
            "Where both batch sizes reach the same λ_max, the small batch has the better test accuracy.",
            Statistic(Study(), accuracy_at_equal_sharpness, "points of test accuracy", scale=100),
            above(0),
            "small batch much better in the green box (Figure 2)",
            smallest=1,
        ),
    ),
)
