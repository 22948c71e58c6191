"""Claim 4: more dropout means smaller lambda_max, and beyond some rate worse accuracy.

Kaur, Cohen, Lipton 2022, section 3.4. Modest rates are those up to 0.2, where the paper sees a benefit; the excessive
one is the largest rate, of 0.5 or more, that every seed trained to the stop rule.
"""

from types import SimpleNamespace

from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.settings import OTHER_SHARPNESS, kaur2022_config, with_matched_loss
from flatlib.claims.study import Study
from flatlib.config import RunConfig, grid

DROPOUT = Study(settings=("batch_size", "learning_rate", "dropout"), blocks=("batch_size", "learning_rate"))
NONE, MODEST = "dropout == 0", "0 < dropout <= 0.2"
EXCESSIVE = "dropout >= 0.5 and dropout == dropout.max()"


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x dropout rate x seed, plain SGD to 99 % training accuracy."""
    base = kaur2022_config(p, *OTHER_SHARPNESS)
    runs = grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, dropout=p.rates, seed=p.seeds)
    return with_matched_loss(runs)


CLAIM = Claim(
    chapter="04_dropout",
    intervention="dropout",
    sentence="More dropout finds smaller λ_max, but too much of it generalizes worse.",
    source="Kaur, Cohen, Lipton 2022, section 3.4, Figures 8 and 9",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness",
            "λ_max falls with the dropout rate p.",
            DROPOUT.kendall("dropout", "lambda_max"),
            below(-0.3),
            "λ_max falls (Figures 8, 9)",
        ),
        Prediction(
            "modest dropout",
            "Modest rates, up to 0.2, improve the test accuracy.",
            DROPOUT.difference("test_accuracy", MODEST, NONE),
            above(0),
            "slight benefits up to p = 0.2 (Figure 8)",
            smallest=0.5,  # of a "slight" benefit
        ),
        Prediction(
            "excess (sharpness)",
            "The largest rate is flatter than the modest ones,",
            DROPOUT.log2_ratio("lambda_max", EXCESSIVE, MODEST),
            below(0),
            "p = 0.7 flatter than p = 0.1 (Figure 8)",
            smallest=0.5,
        ),
        Prediction(
            "excess (accuracy)",
            "and generalizes worse.",
            DROPOUT.difference("test_accuracy", EXCESSIVE, MODEST),
            below(0),
            "p = 0.7 worse than p = 0.1 (Figure 8)",
            smallest=1,
        ),
    ),
)
