"""The memory that the graph of a product takes, predicted from one forward pass of two examples."""

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.frozen_model import run
from flatlib.device import free_memory

GRAPH_SHARE = 0.25
"""Part of the free memory that one chunk's graph may be predicted to take; tuned, a few workers share a machine."""
GRAPH_MEMORY_CPU = 4 * 2**30
"""Most bytes of it on a CPU, so that what fits is the same on most machines: other chunks are another order of sums."""
GRAPH_PER_FORWARD = 4.0
GRAPH_PER_LARGEST = 10.0
VECTORS = 8
"""Most bytes of a product per byte that the forward pass keeps, per byte of the largest tensor among these, for what is
in flight, and per byte of a vector of length n. Measured 0.9 (MLP) to 3.4 (ResNet-18) of the first, with 6 vectors, and
for two wide convolutions 4 to 6.6 of the second on top of it: convolutions copy their tensors to other layouts, and how
many copies there are depends on the processor."""


def kept_bytes(model: nn.Module, x: Tensor) -> list[int]:
    """Bytes an example of every tensor that the forward pass of x keeps for the backward pass, parameters aside."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        """Detached, and not returned to the graph: a tensor that holds the graph which holds it is never freed."""
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        run(model, x)
    return [tensor.numel() * tensor.element_size() // len(x) for tensor in kept.values()]


def product_bytes(kept: list[int]) -> int:
    """Bytes an example that a product takes at most."""
    return int(GRAPH_PER_FORWARD * sum(kept) + GRAPH_PER_LARGEST * max(kept, default=0))


def affordable_examples(kept: list[int], device: torch.device) -> int:
    """Examples, at least one, whose graph is predicted to fit the memory that may be taken."""
    memory = GRAPH_SHARE * free_memory(device)
    if device.type == "cpu":
        memory = min(memory, GRAPH_MEMORY_CPU)
    return max(1, int(memory / max(1, product_bytes(kept))))
