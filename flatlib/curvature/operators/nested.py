"""Inputs, targets and outputs that are tensors, or tuples, lists, mappings and data classes that hold tensors."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def leaves(nest: Any) -> Iterator[Tensor]:
    """Yield every tensor of a nest, in order."""
    found: list[Tensor] = []
    mapped(nest, found.append)
    yield from found


def mapped(nest: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return the nest with the function's value in place of each tensor; NumPy arrays count as tensors."""
    if isinstance(nest, Tensor | np.ndarray):
        return function(torch.as_tensor(nest))
    if isinstance(nest, Mapping):
        values = {key: mapped(value, function) for key, value in nest.items()}
        return _refilled(nest, values)
    if isinstance(nest, tuple | list):
        items = [mapped(value, function) for value in nest]
        return type(nest)(*items) if hasattr(nest, "_fields") else type(nest)(items)
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        names = [field.name for field in dataclasses.fields(nest) if field.init]
        return dataclasses.replace(nest, **{name: mapped(getattr(nest, name), function) for name in names})
    return nest


def with_leaves(nest: Any, tensors: list[Tensor]) -> Any:
    """Return the nest with these tensors in place of its own, in order."""
    following = iter(tensors)
    return mapped(nest, lambda _: next(following))


def detached_leaf(tensor: Tensor) -> Tensor:
    """Return the tensor as the start of a new graph, if it can have a gradient."""
    return tensor.detach().requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def is_nest(value: Any) -> bool:
    """Return whether the tensors of a value can be seen: False for objects of unknown classes that may hold some."""
    known = isinstance(value, Tensor | Mapping | tuple | list | str | int | float | None)
    return known or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def per_example(nest: Any, count: int) -> bool:
    """Return whether every tensor's first dimension has this size."""
    return all(leaf.ndim > 0 and len(leaf) == count for leaf in leaves(nest))


def joined(nests: list[Any]) -> Any:
    """Concatenate nests of one structure along the first dimension of each tensor.

    Raises:
        ValueError: If they differ in structure or in another dimension.
    """
    columns = [list(leaves(nest)) for nest in nests]
    if len({len(column) for column in columns}) > 1:
        raise ValueError("they hold different numbers of tensors")
    try:
        return with_leaves(nests[0], [torch.cat(row) for row in zip(*columns, strict=True)])
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def shapes(nest: Any) -> str:
    """Describe a nest: the shape of a tensor, otherwise its type."""
    return f"shape {tuple(nest.shape)}" if isinstance(nest, Tensor) else f"type {type(nest).__name__}"


def _refilled(mapping: Mapping, items: dict) -> Any:
    """Return a mapping of the same class with other values, or a plain dictionary where the class allows none."""
    if type(mapping) is dict:
        return items
    try:
        filled: Any = copy.copy(mapping)
        for key, value in items.items():
            filled[key] = value
    except Exception:
        return items
    return filled
