"""Each claim as data: statement, source, predictions declared before the data, and the rules that judge them."""

from flatlib.claims import (
    batch_norm,
    dropout,
    linear_scaling,
    lr_batch,
    progressive_sharpening,
    sam,
)
from flatlib.claims.rules import Claim, Prediction, Rule, overall, readable, sentence
from flatlib.claims.settings import complete_cells, exclusions

MODULES = (lr_batch, linear_scaling, sam, dropout, batch_norm, progressive_sharpening)
CLAIMS = {module.CLAIM.chapter: module.CLAIM for module in MODULES}

__all__ = ["CLAIMS", "Claim", "Prediction", "Rule", "complete_cells", "exclusions", "overall", "readable", "sentence"]
