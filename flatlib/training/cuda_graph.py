"""A gradient as one launch: recorded as a CUDA graph and replayed for every batch of its size.

A step of a small network on a small batch is a hundred kernels of microseconds each, and the GPU waits for the
processor that launches them. A graph launches all of them at once.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from flatlib.device import global_generators
from flatlib.training.optim.gradient import Batch
from flatlib.training.step import Gradient

LARGEST = 1000
"""Images of a batch; more of them keep the GPU busy for longer than their launches take, and a graph keeps the memory
of its step for as long as it lives."""
WARM_UP = 3
"""Plain steps before the recording: libraries choose kernels and take workspaces at their first calls."""
CHECKED = 2
"""Replays that are compared with the plain gradient, each at a batch and at weights of its own."""
AGREEMENT = 1e-3
"""Of the lengths of the two gradients, of the weights and of batch norm's statistics; the kernels are the same, and so
should the bits be. A graph that takes an old batch, old weights or an old random mask is of the order of 1 away."""


class Graph(Protocol):
    """Work on the GPU that is recorded once and replayed."""

    def beside(self, work: Callable[[], None]) -> None:
        """Do it now, where it is going to be recorded."""

    def record(self, work: Callable[[], None]) -> None:
        """Write down the kernels that it launches; none of them is run. A RuntimeError if that cannot be done."""

    def replay(self) -> None:
        """Run them, on the memory that they were recorded with."""


class CudaGraph:
    """PyTorch's own, on a stream beside the current one, as its notes on CUDA semantics have it."""

    usable = True
    """Until a recording fails: before PyTorch 2.15 that leaves the process's memory pools in disorder, and another one
    would make it worse."""

    def __init__(self, device: torch.device):
        self._graph, self._stream = torch.cuda.CUDAGraph(), stream_beside(device)

    def beside(self, work: Callable[[], None]) -> None:
        """See `Graph`."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> None:
        """See `Graph`."""
        CudaGraph.usable = False
        # The first context puts the current stream back, also where a recording that fails does not.
        current = torch.cuda.stream(torch.cuda.current_stream(self._stream.device))
        with current, torch.cuda.graph(self._graph, stream=self._stream):
            work()
        CudaGraph.usable = True

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


@functools.cache
def stream_beside(device: torch.device) -> torch.cuda.Stream:
    """The same for every run: cuBLAS may keep a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device)


def replayed(gradient: Gradient, model: nn.Module, size: int, device: torch.device) -> Gradient:
    """The same gradient, on a GPU at batches of at most `LARGEST` images by a `Replay`."""
    if device.type != "cuda" or size > LARGEST or not CudaGraph.usable:
        return gradient
    return Replay(gradient, model, size, device, CudaGraph(device))


class Replay:
    """The gradient of a network in training, launched at once for batches of `size` images.

    Batches of another size, the last of an epoch, are launched kernel by kernel. So is everything, with a warning, if
    the gradient cannot be recorded or if one of its first replays does not give what the plain one gives; the step then
    takes the plain one.

    model: whose parameters and buffers stay the same tensors as long as this is used, as every optimizer keeps them.
    """

    def __init__(self, gradient: Gradient, model: nn.Module, size: int, device: torch.device, graph: Graph):
        self._plain, self._model, self._size, self._device = gradient, model, size, device
        self._graph: Graph | None = graph
        self._seen = 0
        self._batch: Batch | None = None
        self._gradients: list[Tensor | None] = []

    def __call__(self, batch: Batch) -> None:
        """Leave the gradient in `.grad`; the next call overwrites it."""
        if self._graph is None or len(batch[0]) != self._size:
            self._plain(batch)
            return
        self._seen += 1
        if self._seen <= WARM_UP:
            self._graph.beside(functools.partial(self._plain, batch))
        elif self._seen <= WARM_UP + CHECKED:
            self._checked(batch)
        else:
            self._replay(batch)

    def _replay(self, batch: Batch) -> None:
        for place, value in zip(self._batch, batch, strict=True):
            place.copy_(value)
        self._graph.replay()
        for p, gradient in zip(self._model.parameters(), self._gradients, strict=True):
            p.grad = gradient

    def _record(self, batch: Batch) -> None:
        self._batch = tuple(tensor.clone() for tensor in batch)
        self._model.zero_grad(set_to_none=True)  # so that the gradients are tensors of the graph's own memory
        self._graph.record(functools.partial(self._plain, self._batch))
        self._gradients = [p.grad for p in self._model.parameters()]

    def _checked(self, batch: Batch) -> None:
        before = State(self._model, self._device)
        self._plain(batch)
        expected = outcome(self._model)
        before.put_back()
        try:
            if self._batch is None:
                self._record(batch)
            self._replay(batch)
            found = outcome(self._model)
            reason = None if all(map(agree, found, expected)) else "they do not give the plain gradient"
        except RuntimeError as error:
            reason = str(origin(error)).partition("\n")[0]
        if reason is not None:
            warnings.warn(f"no CUDA graphs in this run, which is slower for it: {reason}", stacklevel=2)
            self._graph, self._batch, self._gradients = None, None, []
            before.put_back()
            self._plain(batch)


def origin(error: BaseException) -> BaseException:
    """What went wrong first: a recording that is broken off raises once more when it is ended."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class State:
    """What a pass changes beside the gradient: the buffers, the random states and, on SAM's way, the weights."""

    def __init__(self, model: nn.Module, device: torch.device):
        tensors = [*model.parameters(), *model.buffers()]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._generators = [(generator, generator.get_state()) for generator in global_generators(device)]

    @torch.no_grad()
    def put_back(self) -> None:
        """As they were."""
        for tensor, value in self._tensors:
            tensor.copy_(value)
        for generator, state in self._generators:
            generator.set_state(state)


def outcome(model: nn.Module) -> list[Tensor]:
    """Copies of what a pass leaves: the whole gradient, all weights, and each buffer."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    whole = [torch.cat([t.detach().flatten() for t in tensors]) for tensors in (gradients, model.parameters())]
    return whole + [buffer.clone() for buffer in model.buffers()]


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether the difference is at most `AGREEMENT` of the length; what is not finite agrees with its like."""
    if found.numel() == 0 or torch.equal(found, expected):
        return True
    found, expected = found.double(), expected.double()
    length = torch.linalg.vector_norm(expected)
    if not torch.isfinite(length):
        return not bool(torch.isfinite(found).all())
    return bool(torch.linalg.vector_norm(found - expected) <= AGREEMENT * length)
