"""Each claim as data: its sentence, source, predictions declared before the data, and the rules that judge them.

``CLAIMS`` has every claim by the name of its chapter: the ``CLAIM`` of every module here that defines one, so that a
new chapter registers itself.
"""

import importlib
import pkgutil

from flatlib.claims.prediction import Claim, Guard, Prediction, Rule, above, below, between
from flatlib.claims.study import Statistic, Study, complete_cells, exclusions, trends
from flatlib.claims.verdict import claim_verdict, format_verdicts, summarize

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
_claims: list[Claim] = [module.CLAIM for module in _modules if hasattr(module, "CLAIM")]
CLAIMS = {claim.chapter: claim for claim in sorted(_claims, key=lambda claim: claim.chapter)}

__all__ = [
    "CLAIMS",
    "Claim",
    "Guard",
    "Prediction",
    "Rule",
    "Statistic",
    "Study",
    "above",
    "below",
    "between",
    "claim_verdict",
]
__all__ += ["complete_cells", "exclusions", "format_verdicts", "summarize", "trends"]
