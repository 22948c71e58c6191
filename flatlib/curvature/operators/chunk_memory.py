"""Memory of a Hessian-vector product's graph, predicted from one forward pass of two examples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flatlib.device import free_memory
from flatlib.errors import FlatlibError

GRAPH_SHARE = 0.25  # part of the free memory for one chunk's graph; tuned, since several workers share a machine
GRAPH_MEMORY_CPU = 4 * 2**30  # most bytes of it on a CPU: the same chunks, and sums, on machines of different size
# Upper bounds of what a product takes, in bytes per byte that the forward pass saves for the backward pass:
BYTES_PER_SAVED_BYTE = 4.0  # of all tensors; measured 0.9 (MLP) to 3.4 (ResNet-18)
BYTES_PER_LARGEST_BYTE = 10.0  # of the largest, for copies in other layouts; measured 4 to 6.6 (two wide convolutions)
VECTORS = 14  # vectors of length n at most: a product holds 6, its check with differences 6 in float64


def kept_bytes(model: nn.Module, count: int, run: Callable[[], object]) -> list[int]:
    """Return the bytes per example of every tensor that a run of so many examples saves, parameters apart.

    Of a model that calls ``torch.func.grad``, which allows no hooks on saved tensors, every tensor made is counted.
    """
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        detached = tensor.detach()  # a tensor that holds the graph which holds it is never freed
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = detached
        return detached

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            run()
    except FlatlibError:
        with _EveryTensor(keep):
            run()
    return [tensor.numel() * tensor.element_size() // count for tensor in kept.values()]


class _EveryTensor(TorchDispatchMode):
    """Context that calls a function with every tensor that an operation returns."""

    def __init__(self, keep: Callable[[Tensor], object]):
        super().__init__()
        self._keep = keep

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self._keep(part)
        return result


def product_bytes(kept: list[int]) -> int:
    """Return an upper bound of the bytes per example that a product takes."""
    return int(BYTES_PER_SAVED_BYTE * sum(kept) + BYTES_PER_LARGEST_BYTE * max(kept, default=0))


def affordable_examples(kept: list[int], device: torch.device) -> int:
    """Return how many examples, at least one, have a graph that is predicted to fit the memory available."""
    memory = GRAPH_SHARE * free_memory(device)
    if device.type == "cpu":
        memory = min(memory, GRAPH_MEMORY_CPU)
    return max(1, int(memory / max(1, product_bytes(kept))))
