"""Claim 0: one sentence that says what the source claims.

The source: authors, year, section. Say here what the predictions below compare with what, and which runs count.
"""

from types import SimpleNamespace

from flatlib.claims.prediction import Claim, Prediction, below
from flatlib.claims.settings import base_config
from flatlib.claims.study import Study
from flatlib.config import RunConfig, grid

RATES = Study(settings=("learning_rate",))


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: learning rate x seed."""
    base = base_config(p, measures=("performance", "lambda_max", "gradient_norm", "weight_norm"))
    return grid(base, learning_rate=p.learning_rates, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="00_template",
    sentence="Larger learning rates find smaller λ_max.",
    source="Authors, year, section, Figures",
    predictions=(
        Prediction(
            "sharpness",
            "λ_max falls with the learning rate.",
            RATES.kendall("learning_rate", "lambda_max").measured_in("Kendall's τ of η and λ_max"),
            below(-0.3),
            "what the source reports (Figure 1)",
        ),
    ),
)
