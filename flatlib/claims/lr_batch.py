"""Claim 1: large learning rates are flatter at every batch size, and generalize better only at a small one.

Kaur, Cohen, Lipton 2022, section 3.1. "Small" and "large" are the smallest and the largest batch among the runs. At
the large one, gradient descent stays near the edge of stability: lambda_max is about 2 / learning rate.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import at_batch
from flatlib.config import RunConfig, grid
from flatlib.stats import matched_difference, seed_slopes

CELL = ["batch_size", "learning_rate"]
OTHER_SHARPNESS = ("trace", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness")


def sharpness_slope(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: decades of lambda_max per decade of learning rate; -1 is lambda_max proportional to 1 / rate."""
    return seed_slopes(at_batch(runs, which, CELL), "learning_rate", "lambda_max", logy=True)


def accuracy_slope(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: percentage points of test accuracy per decade of learning rate."""
    return 100 * seed_slopes(at_batch(runs, which, CELL), "learning_rate", "test_accuracy")


def distance_to_edge(runs: pd.DataFrame) -> pd.Series:
    """Per seed: the median over learning rates of lambda_max x learning rate / 2, at the large batch."""
    large = at_batch(runs, "large", CELL)
    return (large["lambda_max"] * large["learning_rate"] / 2).groupby(large["seed"]).median()


def slope_contrast(runs: pd.DataFrame) -> pd.Series:
    """Per seed: the accuracy slope at the small batch minus the one at the large batch."""
    return accuracy_slope(runs, "small") - accuracy_slope(runs, "large")


def accuracy_at_equal_sharpness(runs: pd.DataFrame) -> pd.Series:
    """Per seed: percentage points by which the small batch is better where both reach the same lambda_max."""
    both = pd.concat([at_batch(runs, "small", CELL), at_batch(runs, "large", CELL)])
    sizes = sorted(runs["batch_size"].unique())
    return 100 * matched_difference(both, "lambda_max", "test_accuracy", "batch_size", high=sizes[0], low=sizes[-1])


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x seed, plain SGD to 99 % training accuracy."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        max_epochs=p.max_epochs,
        check_every=p.check_every or None,
        matched_loss=0.15,
        tolerance=3e-4,
        measures=("performance", "lambda_max", *OTHER_SHARPNESS, "gradient_norm", "weight_norm"),
    )
    return grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="01_lr_batch",
    intervention="learning rate, batch size",
    sentence=(
        "Larger learning rates find smaller λ_max at every batch size, but they generalize better only when the "
        "batch is small."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.1, Figures 1-3",
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max falls with the learning rate.",
            lambda runs: sharpness_slope(runs, "small"),
            "decades of λ_max per decade of learning rate",
            Rule(high=-0.2),
            "λ_max falls (Figure 1)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch, λ_max falls with the learning rate as well.",
            lambda runs: sharpness_slope(runs, "large"),
            "decades of λ_max per decade of learning rate",
            Rule(high=-0.2),
            "λ_max falls along 2/η, slope -1 (Figure 1)",
        ),
        Prediction(
            "edge of stability",
            "At the large batch, λ_max ends near 2/η.",
            distance_to_edge,
            "λ_max η / 2",
            Rule(low=0.7, high=1.5),
            "on the line 2/η (Figure 1)",
        ),
        Prediction(
            "accuracy (small batch)",
            "At the small batch, test accuracy rises with the learning rate.",
            lambda runs: accuracy_slope(runs, "small"),
            "points of test accuracy per decade of learning rate",
            Rule(low=0),
            "accuracy rises (Figure 1)",
        ),
        Prediction(
            "accuracy (large batch)",
            "At the large batch, test accuracy does not rise: by less than half a point per decade.",
            lambda runs: accuracy_slope(runs, "large"),
            "points of test accuracy per decade of learning rate",
            Rule(high=0.5),
            "accuracy plateaus (Figure 1)",
        ),
        Prediction(
            "contrast",
            "The learning rate helps accuracy more at the small batch than at the large one.",
            slope_contrast,
            "points of test accuracy per decade of learning rate",
            Rule(low=0),
            "the benefit fades as the batch grows (Figure 3)",
        ),
        Prediction(
            "equal sharpness",
            "Where both batch sizes reach the same λ_max, the small batch has the better test accuracy.",
            accuracy_at_equal_sharpness,
            "points of test accuracy",
            Rule(low=0),
            "small batch much better in the green box (Figure 2)",
        ),
    ),
)
