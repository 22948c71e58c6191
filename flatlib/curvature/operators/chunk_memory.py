"""Memory of a Hessian-vector product's graph, predicted from one forward pass of two examples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flatlib.device import free_memory

GRAPH_SHARE = 0.25  # part of the free memory for one chunk's graph; tuned, since several workers share a machine
GRAPH_MEMORY_CPU = 4 * 2**30  # most bytes of it on a CPU: the same chunks, and sums, on machines of different size
# Upper bounds of what a product takes, in bytes per byte that the forward pass saves for the backward pass:
BYTES_PER_SAVED_BYTE = 4.0  # of all tensors; measured 0.9 (MLP) to 3.4 (ResNet-18)
BYTES_PER_LARGEST_BYTE = 10.0  # of the largest, for copies in other layouts; measured 4 to 6.6 (two wide convolutions)
VECTORS = 14  # vectors of length n at most: a product holds 6, its check with differences 6 in float64


def kept_bytes(model: nn.Module, count: int, run: Callable[[], object]) -> list[int]:
    """Return the bytes per example of every tensor that a run of so many examples saves, parameters apart."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Detached: a tensor that holds the graph which holds it is never freed.
        if tensor.data_ptr() in parameters:
            return tensor
        kept[tensor.data_ptr()] = tensor.detach()
        return kept[tensor.data_ptr()]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return [tensor.numel() * tensor.element_size() // count for tensor in kept.values()]


def product_bytes(kept: list[int]) -> int:
    """Return an upper bound of the bytes per example that a product takes."""
    return int(BYTES_PER_SAVED_BYTE * sum(kept) + BYTES_PER_LARGEST_BYTE * max(kept, default=0))


def affordable_examples(kept: list[int], device: torch.device) -> int:
    """Return how many examples, at least one, have a graph that is predicted to fit the memory available."""
    memory = GRAPH_SHARE * free_memory(device)
    if device.type == "cpu":
        memory = min(memory, GRAPH_MEMORY_CPU)
    return max(1, int(memory / max(1, product_bytes(kept))))
