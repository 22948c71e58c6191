"""Each claim as data: statement, source, predictions declared before the data, and the rules that judge them."""

import importlib
import pkgutil

from flatlib.claims.prediction import Claim, Prediction, Rule, claim_verdict, format_verdicts, sentence
from flatlib.claims.rank_correlations import trends
from flatlib.claims.selection import complete_cells, exclusions

MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
_FOUND = [module.CLAIM for module in MODULES if hasattr(module, "CLAIM")]
CLAIMS = {claim.chapter: claim for claim in sorted(_FOUND, key=lambda claim: claim.chapter)}
"""Every claim by the name of its chapter, from the ``CLAIM`` of every module here that has one."""

__all__ = [
    "CLAIMS",
    "Claim",
    "Prediction",
    "Rule",
    "claim_verdict",
    "complete_cells",
    "exclusions",
    "format_verdicts",
    "sentence",
    "trends",
]
