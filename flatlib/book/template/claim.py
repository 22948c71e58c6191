"""Claim 0: one sentence that says what the source claims.

The source: authors, year, section. Say here what the predictions below compare with what, and which runs count.
"""

from flatlib.claims.prediction import Claim, Prediction, below
from flatlib.claims.study import Study

RATES = Study(settings=("learning_rate",))

CLAIM = Claim(
    chapter="00_skeleton",
    sentence="Larger learning rates find smaller λ_max.",
    source="Authors, year, section, Figures",
    predictions=(
        Prediction(
            "sharpness",
            "λ_max falls with the learning rate.",
            RATES.kendall("learning_rate", "lambda_max").measured_in("Kendall's τ of η and λ_max"),
            below(-0.3),
            reported="what the source reports (Figure 1)",
        ),
    ),
)
