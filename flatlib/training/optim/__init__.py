"""Optimizers by name, SAM around any of them, learning rate schedules, averages of iterates."""

from flatlib.training.optim.optimizers import build_optimizer
from flatlib.training.optim.sam import batch_gradient, sam_gradient
from flatlib.training.optim.schedules import SCHEDULES, averaged_network

__all__ = ["SCHEDULES", "averaged_network", "batch_gradient", "build_optimizer", "sam_gradient"]
