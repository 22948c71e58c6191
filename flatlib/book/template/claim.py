"""Claim 0: one sentence that says what the source claims.

The source: authors, year, section. Say here what the predictions below compare with what, and which runs count.
"""

import pandas as pd

from flatlib.claims.contrasts import seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells


def sharpness_order(runs: pd.DataFrame) -> pd.Series:
    """Per seed: Kendall's tau of the learning rate and lambda_max."""
    return seed_taus(complete_cells(runs, ["learning_rate"]), "learning_rate", "lambda_max")


CLAIM = Claim(
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
