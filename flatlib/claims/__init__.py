"""Each claim as data: statement, source, predictions declared before the data, and the rules that judge them."""

from flatlib.claims import (
    adam_vs_sgd,
    batch_norm,
    dropout,
    label_smoothing,
    linear_scaling,
    lr_batch,
    minimum_sharpness,
    progressive_sharpening,
    regularisers,
    sam,
    weight_decay,
)
from flatlib.claims.rules import Claim, Prediction, Rule, overall, readable, sentence
from flatlib.claims.settings import complete_cells, exclusions
from flatlib.claims.trend import trends

MODULES = (
    *(lr_batch, linear_scaling, sam, dropout, batch_norm, weight_decay),
    *(adam_vs_sgd, progressive_sharpening, label_smoothing, minimum_sharpness, regularisers),
)
CLAIMS = {module.CLAIM.chapter: module.CLAIM for module in MODULES}
"""Every claim by the name of its chapter."""

__all__ = [
    "CLAIMS",
    "Claim",
    "Prediction",
    "Rule",
    "complete_cells",
    "exclusions",
    "overall",
    "readable",
    "sentence",
    "trends",
]
