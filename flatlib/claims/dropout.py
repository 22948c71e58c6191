"""Claim 4: more dropout means smaller lambda_max, and beyond some rate worse accuracy.

Kaur, Cohen, Lipton 2022, section 3.4. Modest rates are those up to 0.2, where the paper sees a benefit; the excessive
one is the largest rate, of 0.5 or more, that every seed trained to the stop rule.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import log2_ratio_by_seed, mean_over_blocks, seed_differences, seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig, grid

CELL = ["batch_size", "learning_rate", "dropout"]
OTHER_SHARPNESS = ("trace", "frobenius", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness")
SAME = ["batch_size", "learning_rate"]
MODEST, EXCESSIVE = 0.2, 0.5


def sharpness_order(runs: pd.DataFrame) -> pd.Series:
    """Per seed: Kendall's tau of the dropout rate and lambda_max, at fixed batch size and learning rate."""
    return mean_over_blocks(complete_cells(runs, CELL), SAME, lambda group: seed_taus(group, "dropout", "lambda_max"))


def modest(runs: pd.DataFrame) -> pd.Series:
    """Which runs have a modest rate, 0 excluded."""
    return (runs["dropout"] > 0) & (runs["dropout"] <= MODEST)


def highest(runs: pd.DataFrame) -> pd.Series:
    """Which runs have the largest rate of all, if it is excessive; none where no such rate counts."""
    return (runs["dropout"] >= EXCESSIVE) & (runs["dropout"] == runs["dropout"].max())


def modest_gain(runs: pd.DataFrame) -> pd.Series:
    """Per seed: points of test accuracy that modest rates add to none."""
    kept = complete_cells(runs, CELL)
    return 100 * mean_over_blocks(
        kept, SAME, lambda group: seed_differences(group, "test_accuracy", modest(group), group["dropout"] == 0)
    )


def excess_gain(runs: pd.DataFrame) -> pd.Series:
    """Per seed: points of test accuracy from modest rates to the excessive one."""
    kept = complete_cells(runs, CELL)
    return 100 * mean_over_blocks(
        kept, SAME, lambda group: seed_differences(group, "test_accuracy", highest(group), modest(group))
    )


def excess_sharpness(runs: pd.DataFrame) -> pd.Series:
    """Per seed: doublings of lambda_max from modest rates to the excessive one."""
    kept = complete_cells(runs, CELL)
    return mean_over_blocks(
        kept, SAME, lambda group: log2_ratio_by_seed(group, "lambda_max", highest(group), modest(group))
    )


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x dropout rate x seed, plain SGD to 99 % training accuracy."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        max_epochs=p.max_epochs,
        matched_loss=0.15,
        tolerance=3e-4,
        measures=("performance", "lambda_max", *OTHER_SHARPNESS, "gradient_norm", "weight_norm"),
    )
    return grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, dropout=p.rates, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="04_dropout",
    intervention="dropout",
    sentence="More dropout finds smaller λ_max, but too much of it generalizes worse.",
    source="Kaur, Cohen, Lipton 2022, section 3.4, Figures 8 and 9",
    predictions=(
        Prediction(
            "sharpness",
            "λ_max falls with the dropout rate p.",
            sharpness_order,
            "Kendall's τ of p and λ_max",
            Rule(high=-0.3),
            "λ_max falls (Figures 8, 9)",
        ),
        Prediction(
            "modest dropout",
            "Modest rates, up to 0.2, improve the test accuracy.",
            modest_gain,
            "points of test accuracy",
            Rule(low=0),
            "slight benefits up to p = 0.2 (Figure 8)",
        ),
        Prediction(
            "excess (sharpness)",
            "The largest rate is flatter than the modest ones,",
            excess_sharpness,
            "doublings of λ_max",
            Rule(high=0),
            "p = 0.7 flatter than p = 0.1 (Figure 8)",
        ),
        Prediction(
            "excess (accuracy)",
            "and generalizes worse.",
            excess_gain,
            "points of test accuracy",
            Rule(high=0),
            "p = 0.7 worse than p = 0.1 (Figure 8)",
        ),
    ),
)
