"""Which images of a data set are used: indices of training, test and validation images."""

import numpy as np
import pandas as pd

from flatlib.errors import FlatlibError


def first(labels: np.ndarray, size: int | None, field: str, order: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the first images of any class, in the original order or in another."""
    if size is not None and size > len(labels):
        raise FlatlibError(f"{field}: {size} requested, the data set has {len(labels)}")
    return (np.arange(len(labels)) if order is None else order)[:size]


def balanced(labels: np.ndarray, size: int | None, field: str, order: np.ndarray | None = None) -> np.ndarray:
    """Return the sorted indices of a class-balanced subset: the first images of each class, in the original order or
    in another."""
    if size is None:
        return np.arange(len(labels))
    first(labels, size, field)
    order = first(labels, None, field, order)
    # Sorting by the rank within the class takes one image of each class per round, so that a size that the number of
    # classes does not divide, or a class that runs out, stays as balanced as it can be.
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(rank, kind="stable")[:size]])


def kept_out(
    labels: np.ndarray,
    train_size: int | None,
    validation_size: int,
    subset: str = "balanced",
    order: np.ndarray | None = None,
) -> np.ndarray:
    """Return the indices of a validation set: the images that a class-balanced training set larger by its size would
    add, or the last images of all for a contiguous one."""
    if train_size is None or train_size + validation_size > len(labels):
        used = "all" if train_size is None else train_size
        raise FlatlibError(
            f"validation_size: {validation_size} requested, the data set has {len(labels)} to train on, {used} in use"
        )
    if subset == "contiguous":
        return np.arange(len(labels))[-validation_size:]
    more = balanced(labels, train_size + validation_size, "validation_size", order)
    return np.setdiff1d(more, balanced(labels, train_size, "train_size", order))
