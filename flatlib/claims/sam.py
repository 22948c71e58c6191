"""Claim 3: SAM lowers lambda_max at every batch size, and helps only at a small one.

Kaur, Cohen, Lipton 2022, section 3.3. "Small" and "large" are the smallest and the largest batch among the runs; rho
is SAM's radius, 0 is plain SGD. Only runs at the same learning rate are compared.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import mean_over_blocks, seed_differences, seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import at_batch
from flatlib.config import RunConfig, grid

CELL = ["batch_size", "learning_rate", "sam_rho"]
OTHER_SHARPNESS = ("trace", "frobenius", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness")


def sharpness_order(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: Kendall's tau of rho and lambda_max (mean over learning rates); -1 if each larger rho is flatter."""
    return mean_over_blocks(
        at_batch(runs, which, CELL), ["learning_rate"], lambda group: seed_taus(group, "sam_rho", "lambda_max")
    )


def gain(runs: pd.DataFrame, which: str) -> pd.Series:
    """Per seed: points of test accuracy that SAM adds, as a mean over its radii and the learning rates."""
    return 100 * mean_over_blocks(
        at_batch(runs, which, CELL),
        ["learning_rate"],
        lambda group: seed_differences(group, "test_accuracy", group["sam_rho"] > 0, group["sam_rho"] == 0),
    )


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x SAM's radius x seed, otherwise plain SGD to 99 % accuracy."""
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
    return grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, sam_rho=p.rhos, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="03_sam",
    intervention="SAM",
    sentence=(
        "Sharpness-aware minimization finds smaller λ_max at every batch size, but it generalizes better only when the "
        "batch is small."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.3, Figures 6 and 7",
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max falls with the radius ρ.",
            lambda runs: sharpness_order(runs, "small"),
            "Kendall's τ of ρ and λ_max",
            Rule(high=-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch, λ_max falls with ρ as well.",
            lambda runs: sharpness_order(runs, "large"),
            "Kendall's τ of ρ and λ_max",
            Rule(high=-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "accuracy (small batch)",
            "At the small batch, SAM improves the test accuracy.",
            lambda runs: gain(runs, "small"),
            "points of test accuracy",
            Rule(low=0),
            "accuracy rises with ρ (Figures 6, 7)",
        ),
        Prediction(
            "accuracy (large batch)",
            "At the large batch it does not: by less than half a point.",
            lambda runs: gain(runs, "large"),
            "points of test accuracy",
            Rule(high=0.5),
            "accuracy falls slightly (Figure 6)",
        ),
        Prediction(
            "contrast",
            "SAM helps more at the small batch than at the large one.",
            lambda runs: gain(runs, "small") - gain(runs, "large"),
            "points of test accuracy",
            Rule(low=0),
            "the benefit vanishes at the large batch (section 3.3)",
        ),
    ),
)
