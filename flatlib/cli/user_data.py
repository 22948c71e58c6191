"""The data of the user's own: the first examples of a batch, a data set or a stream, as tensors."""

import contextlib
import itertools
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate, default_convert
from tqdm import tqdm

from flatlib.curvature.operators.examples import ARRAYS, Data
from flatlib.curvature.operators.nested import leaves, mapped
from flatlib.errors import FlatlibError

BATCH = 256  # examples read from a data set or a stream of single examples at a time


def read(data: Any, most: int | None) -> tuple[Data, int]:
    """Return all examples, or the first `most`, and their number; a count of those read is on stderr.

    No batch is read after the one that holds the last example, so that a stream may be endless. Pairs of tensors become
    one batch, other batches stay as they are. NumPy arrays become tensors.

    Args:
        data: A batch, a data set, or an iterable of batches or of single examples.
        most: Number of examples; None for all.

    Raises:
        FlatlibError: The data are none of these, or empty; their own errors are not caught.
    """
    kept: list[Any] = []
    count = 0
    with tqdm(desc="reading", total=most, unit=" examples", leave=False, mininterval=1.0) as bar:
        for batch in map(default_convert, batches(data, most)):
            examples = length(batch)
            if most is not None and examples > most - count:
                batch, examples = first(batch, examples, most - count), most - count
            kept.append(batch)
            count += examples
            bar.update(examples)
            if count == most:
                break
    if not count:
        raise FlatlibError("the data are empty: there is no loss to measure")
    return joined(kept), count


def batches(data: Any, most: int | None) -> Iterable[Any]:
    """Return the batches of the data, at least `most` examples of them if there are so many."""
    if isinstance(data, Mapping | Tensor | np.ndarray):
        return [data]
    if isinstance(data, tuple | list) and any(isinstance(part, ARRAYS) for part in data):
        return [data]
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        size = len(data)  # type: ignore[arg-type]  # a data set without a length is an error like any other
        return DataLoader(Subset(data, range(size if most is None else min(size, most))), batch_size=BATCH)
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise FlatlibError(f"the data must be (inputs, targets) or batches of these, got {type(data).__name__}")
    items = iter(data)
    start = list(itertools.islice(items, 1))
    items = itertools.chain(start, items)
    return collated(itertools.islice(items, most)) if start and is_single(start[0]) else items


def is_single(item: Any) -> bool:
    """Return whether an item is one example: its target, which stands last, is a number."""
    last = item[-1] if isinstance(item, tuple | list) and item else None
    return isinstance(last, numbers.Number) or (isinstance(last, ARRAYS) and last.ndim == 0)


def collated(examples: Iterator[Any]) -> Iterator[Any]:
    """Yield single examples in batches."""
    while group := list(itertools.islice(examples, BATCH)):
        yield default_collate(group)


def length(batch: Any) -> int:
    """Return the number of examples in a batch, the length of its last tensor: the targets of a tuple."""
    found = list(leaves(batch))
    if not found or found[-1].ndim == 0:
        raise FlatlibError(f"a batch must be (inputs, targets) or a dictionary of tensors, got {type(batch).__name__}")
    return len(found[-1])


def first(batch: Any, examples: int, count: int) -> Any:
    """Return the first `count` examples of a batch of so many."""
    if any(tensor.ndim == 0 or len(tensor) != examples for tensor in leaves(batch)):
        raise FlatlibError(f"--examples: a batch of {examples} cannot be divided, as its tensors differ in length")
    return mapped(batch, lambda tensor: tensor[:count])


def joined(batches: list[Any]) -> Data:
    """Return pairs of tensors that fit together as one batch, which train-mode batch norm needs, others as they are."""
    if all(isinstance(b, list | tuple) and len(b) == 2 and all(isinstance(t, Tensor) for t in b) for b in batches):
        with contextlib.suppress(RuntimeError):
            x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
            return x, y
    return batches


def fitted(pair: tuple[Tensor, Tensor], model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the pair on the device, real numbers in the model's dtype and short integers as PyTorch's classes."""
    real = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    short = (torch.int16, torch.int32)
    x, y = (t.to(device, real if t.is_floating_point() else torch.int64 if t.dtype in short else None) for t in pair)
    return x, y
