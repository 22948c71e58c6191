"""The examples that are measured: batches of any shape, joined, cut into chunks, or sampled."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatlib.curvature.operators.nested import is_nest, joined, leaves, mapped, per_example, shapes
from flatlib.errors import FlatlibError

Data = Any  # a batch or an iterable of batches, see ``Examples``
FEW = 8  # examples on which a loss is looked at before it is measured
ARRAYS = (Tensor, np.ndarray)
LABELS = ("labels", "label", "targets", "target", "y")  # keys of the targets in a batch that is a mapping


class Chunk(NamedTuple):
    """Some of the examples.

    Attributes:
        inputs: What the model is called with: a tensor, a tuple or list (by position) or a mapping (by name).
        targets: What the loss compares the output with; None where the loss takes the whole batch.
        size: Number of examples.
        share: Weight of the chunk's loss in the loss of all examples.
    """

    inputs: Any
    targets: Any
    size: int
    share: float = 1.0

    @property
    def divisible(self) -> bool:
        """Whether every tensor has one entry an example, as a graph's adjacency has not."""
        return per_example((self.inputs, self.targets), self.size)

    def at(self, index: Any) -> "Chunk":
        """Return the examples of a slice or a tensor of indices."""

        def part(tensor: Tensor) -> Tensor:
            return tensor[index.to(tensor.device) if isinstance(index, Tensor) else index]

        inputs, targets = mapped(self.inputs, part), mapped(self.targets, part)
        return Chunk(inputs, targets, len(next(leaves((inputs, targets)))))

    def repeated(self, copies: int) -> "Chunk":
        """Return so many copies of every example."""
        return Chunk(joined([self.inputs] * copies), joined([self.targets] * copies), copies * self.size)

    def split(self, size: int) -> Iterator["Chunk"]:
        """Yield the examples, at most this many at a time; all at once if they cannot be divided."""
        if size >= self.size or not self.divisible:
            yield self
            return
        for first in range(0, self.size, size):
            yield self.at(slice(first, first + size))


class Examples:
    """All examples, in as few parts as there are batches that cannot be joined.

    Args:
        data: One batch, or an iterable of batches, which is read once.
        inputs: Number of entries of a tuple that are inputs: all but the last, or 1 where the loss takes weights; None
            where the loss takes the whole batch.

    Attributes:
        parts: Examples of one shape each, joined.
        batches: Number of batches read that are not empty.

    Raises:
        FlatlibError: If the data are not batches, or empty.
    """

    def __init__(self, data: Any, inputs: int | None = -1):
        if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
            raise FlatlibError(f"the data must be (inputs, targets) or batches of these, got {type(data).__name__}")
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed from the global state
            batches = [_chunk(batch, inputs) for batch in ([data] if _is_batch(data, inputs) else data)]
        batches = [batch for batch in batches if batch.size > 0]
        if not batches:
            raise FlatlibError("the data are empty: there is no loss to measure")
        self.batches = len(batches)
        self.parts = _joined(batches)

    @classmethod
    def of(cls, parts: list[Chunk]) -> "Examples":
        """Return the examples of these parts."""
        examples = cls.__new__(cls)
        examples.parts, examples.batches = parts, len(parts)
        return examples

    def __len__(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def single(self) -> Chunk | None:
        """All examples as one chunk of tensors that can be divided; None if they are not."""
        (part, *others) = self.parts
        return part if not others and part.divisible else None

    @property
    def pair(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and targets where each is one tensor; None where they are not."""
        part = self.single
        alike = part is not None and isinstance(part.inputs, Tensor) and isinstance(part.targets, Tensor)
        return (part.inputs, part.targets) if part is not None and alike else None

    def require_pair(self) -> tuple[Tensor, Tensor]:
        """Return ``pair``, or raise a ``FlatlibError`` if there is none."""
        if self.pair is None:
            raise FlatlibError(
                "this measure needs inputs and targets that are one tensor each, in batches of one shape"
            )
        return self.pair

    def few(self, count: int) -> "Examples":
        """Return at most so many examples, spread evenly over the first part."""
        part = self.parts[0]
        if part.size <= count or not part.divisible:
            return Examples.of([part])
        return Examples.of([part.at(torch.linspace(0, part.size - 1, count).long())])


def _is_batch(data: Any, inputs: int | None) -> bool:
    """Return whether the data are one batch: a mapping, or a tuple or list with a tensor in it."""
    if isinstance(data, tuple | list):
        return any(isinstance(entry, ARRAYS) for entry in data)
    return isinstance(data, Mapping) or (inputs is None and isinstance(data, ARRAYS))


def _chunk(batch: Any, inputs: int | None) -> Chunk:
    """Return a batch as a chunk, its tensors detached."""
    if inputs is None:
        return _counted(_detached(batch), None)
    if isinstance(batch, Mapping):
        key = next((label for label in LABELS if label in batch), None)
        if key is not None:
            named = {k: v for k, v in batch.items() if k != key}
            return _counted(_detached(next(iter(named.values())) if len(named) == 1 else named), _detached(batch[key]))
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        kind = type(batch).__name__
        if isinstance(batch, tuple | list):
            kind += f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
        if isinstance(batch, Mapping):
            kind += f" of {', '.join(map(str, batch))}"
        raise FlatlibError(
            f"a batch must be (inputs, targets), or a mapping with {', '.join(LABELS)}; got {kind} "
            "(flatlib.curvature.from_dict_batches picks other keys; a loss of (model, batch) takes any batch)"
        )
    *first, last = _detached(tuple(batch))
    if inputs == 1 and len(batch) > 2:
        return _counted(first[0], (*first[1:], last))
    return _counted(first[0] if len(first) == 1 else tuple(first), last)


def _detached(nest: Any) -> Any:
    def detach(tensor: Tensor) -> Tensor:
        return tensor.detach().clone() if tensor.is_inference() else tensor.detach()

    with torch.inference_mode(False):
        return mapped(nest, detach)


def _counted(inputs: Any, targets: Any) -> Chunk:
    """Return a chunk with the number of its examples, the length of the targets or of the inputs."""
    tensors = [*leaves(targets), *leaves(inputs)]
    if not tensors:
        raise FlatlibError("a batch has no tensor in it")
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    simple = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
    if tensors[0].ndim == 0 or (simple and (inputs.ndim == 0 or len(sizes) > 1)):
        raise FlatlibError(
            f"inputs of {shapes(inputs)} and targets of {shapes(targets)} are not N pairs"
            + (" (a data set's single examples come in batches from a DataLoader)" if tensors[0].ndim == 0 else "")
        )
    return Chunk(inputs, targets, len(tensors[0]))


def _joined(batches: list[Chunk]) -> list[Chunk]:
    """Join neighbours of the same shape."""
    parts: list[list[Chunk]] = []
    for batch in batches:
        if parts and batch.divisible and _signature(parts[-1][-1]) == _signature(batch):
            parts[-1].append(batch)
        else:
            parts.append([batch])
    return [part[0] if len(part) == 1 else _join(part) for part in parts]


def _join(part: list[Chunk]) -> Chunk:
    inputs, targets = joined([chunk.inputs for chunk in part]), joined([chunk.targets for chunk in part])
    return Chunk(inputs, targets, sum(chunk.size for chunk in part))


def _signature(chunk: Chunk) -> tuple:
    """Return what batches must share to be joined: structure, and shape and dtype of each tensor but its length."""
    nest = (chunk.inputs, chunk.targets)
    structure = repr(mapped(nest, lambda tensor: None)) if is_nest(nest) else id(chunk)
    return chunk.divisible, structure, *((tensor.shape[1:], tensor.dtype) for tensor in leaves(nest))


def from_dict_batches(batches: Iterable[Mapping[str, Tensor]], inputs: str, targets: str) -> Iterator[tuple]:
    """Yield (inputs, targets) pairs from batches that are dictionaries, as operators take them.

    >>> batches = [{"image": torch.ones(3, 2), "label": torch.ones(3)}]
    >>> [x.shape for x, y in from_dict_batches(batches, "image", "label")]
    [torch.Size([3, 2])]

    Args:
        batches: Dictionaries of tensors, such as those of a ``DataLoader`` over a Hugging Face data set.
        inputs: Key of the inputs.
        targets: Key of the targets.

    Raises:
        FlatlibError: If a batch does not have both keys.
    """
    for batch in batches:
        for key in (inputs, targets):
            if key not in batch:
                raise FlatlibError(f'a batch has no "{key}"; it has {", ".join(map(str, batch))}')
        yield batch[inputs], batch[targets]
