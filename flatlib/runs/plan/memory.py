"""Most memory that a run takes: its images, its weights and what the optimizer keeps, and the graph of a step or of a
product with the Hessian."""

import functools
import math

import torch

from flatlib.config import RunConfig
from flatlib.curvature.operators.chunk_memory import VECTORS, affordable_examples, kept_bytes, product_bytes
from flatlib.measures.performance import CHUNK
from flatlib.runs.plan.stand_ins import Images
from flatlib.runs.plan.steps import Steps
from flatlib.training.models import build

STATES = {"sgd": 0, "heavy_ball": 1, "nesterov": 1, "adagrad": 1, "adam": 2, "adamw": 2, "adabound": 2, "adashift": 12}
"""Numbers that an optimizer keeps for each weight; AdaShift keeps its last ten gradients."""
IN_FLIGHT = 3
"""Copies of the largest tensor that a pass without a graph holds at a time: what a layer reads, writes, reorders."""
FLOAT = 4  # bytes


def peak_bytes(config: RunConfig, images: Images, device: torch.device, steps: Steps) -> int:
    """Most bytes of a run, PyTorch itself aside; `images` is what is in use of the data set.

    The graph of a step is what the forward pass of two random images is seen to keep, times the images of the batch;
    on a GPU the peak that the calibration (`steps`) saw, in proportion to the batch. The graph of a product is
    predicted as `flatlib.curvature` does it, which measures in parts where all images would not fit. Loss and accuracy
    are taken of a thousand images at a time, without a graph.
    """
    kept, parameters = _network(network_of(config), images.shape, images.classes)
    weights = FLOAT * parameters * (2 + STATES[config.optimizer] + (config.sam_rho > 0))
    batch = config.batch_size or images.train
    at_once = min(batch, config.microbatch or batch)
    step = weights + at_once * (sum(kept) + 2 * max(kept, default=0))
    if steps.memory:
        timed = min(steps.largest, config.microbatch or steps.largest)
        step = weights + max(0, steps.memory[steps.largest] - weights) * at_once // timed
    measured = min(config.measure_size, images.train, affordable_examples(kept, device))
    product = weights + measured * product_bytes(kept) + VECTORS * FLOAT * parameters
    resident = FLOAT * (images.train + images.test + (config.validation_size or 0)) * math.prod(images.shape)
    evaluation = weights + min(CHUNK, images.train) * IN_FLIGHT * max(kept, default=0)
    return resident + max(step, product, evaluation)


def network_of(config: RunConfig) -> RunConfig:
    """The configuration's network, every setting that does not shape it at the default."""
    names = ("dataset", "model", "width", "depth", "activation", "dropout")
    return RunConfig(**{name: getattr(config, name) for name in names})


@functools.cache
def _network(config: RunConfig, shape: tuple[int, int, int], classes: int) -> tuple[list[int], int]:
    """Bytes an example of what the network keeps for its gradient, by tensor; and how many parameters it has."""
    model = build(config, shape, classes).train()
    return kept_bytes(model, torch.zeros(2, *shape)), sum(p.numel() for p in model.parameters())
