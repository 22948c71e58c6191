"""Measures by name: what a network's loss, accuracy, curvature and sharpness are, each estimate with its error."""

from flatlib.measures.checkpoint import Checkpoint
from flatlib.measures.performance import Numbers, evaluate
from flatlib.measures.registry import REGISTRY, measure

__all__ = ["REGISTRY", "Checkpoint", "Numbers", "evaluate", "measure"]
