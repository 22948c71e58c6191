"""Claim 0: one sentence that says what the source claims.

The source: authors, year, section. Say here what the predictions below compare with what, and which runs count.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig, grid


def sharpness_order(runs: pd.DataFrame) -> pd.Series:
    """Per seed: Kendall's tau of the learning rate and lambda_max."""
    return seed_taus(complete_cells(runs, ["learning_rate"]), "learning_rate", "lambda_max")


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: learning rate x seed."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        measures=("performance", "lambda_max", "gradient_norm", "weight_norm"),
    )
    return grid(base, learning_rate=p.learning_rates, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="00_skeleton",
    sentence="Larger learning rates find smaller λ_max.",
    source="Authors, year, section, Figures",
    predictions=(
        Prediction(
            "sharpness",
            "λ_max falls with the learning rate.",
            sharpness_order,
            "Kendall's τ of η and λ_max",
            Rule(high=-0.3),
            "what the source reports (Figure 1)",
        ),
    ),
)
