"""How the weights move: optimizers by name, SAM around any of them, learning rate schedules, averages of iterates."""

from flatlib.optim.averaging import Average
from flatlib.optim.gradient import batch_gradient
from flatlib.optim.optimizers import build_optimizer
from flatlib.optim.sam import sam_gradient
from flatlib.optim.schedule import SCHEDULES

__all__ = ["SCHEDULES", "Average", "batch_gradient", "build_optimizer", "sam_gradient"]
