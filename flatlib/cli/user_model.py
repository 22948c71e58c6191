"""A network of the user's own: loaded from a function in a file, and measured into a table of numbers with errors."""

import contextlib
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

from flatlib.curvature.operators.empirical_risk import collect_batches
from flatlib.errors import FlatlibError, explained, require_one_of
from flatlib.measures import REGISTRY, Checkpoint, measure
from flatlib.runs.provenance import provenance

# All measures that need no more than a model and examples.
MEASURABLE = tuple(name for name in REGISTRY if name not in ("performance", "between_iterates"))
BATCH = 256  # examples read from a data set at a time
COLUMNS = ("value", "error", "products", "converged", "exact", "seconds")
COMPANIONS = {  # column of each companion of a measure: a residual, a standard error and a gap are all its error
    **dict.fromkeys(("residual", "standard_error", "frank_wolfe_gap"), "error"),
    **{name: name for name in ("products", "converged", "exact")},
}
SETTINGS = ("loss", "batch_norm", "tolerance", "seed")  # of a checkpoint


def load(target: str) -> tuple[nn.Module, Any]:
    """Run the user's file and return (model, data), which the function of a ``FILE.py:FUNCTION`` returns.

    Raises:
        FlatlibError: There is no such file or function, it fails, or returns anything else.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or path.suffix != ".py" or not name.isidentifier():
        raise FlatlibError(f"{target}: expected FILE.py:FUNCTION, a function of yours that returns (model, data)")
    if not path.is_file():
        raise FlatlibError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"{path.stem} of flatlib measure", path)
    assert spec is not None  # the suffix is one that Python imports
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Kept: data may import a neighbour of the file when read, and dataclasses and pickle look their module up.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[spec.name] = module
    with explained(f"{target}: failed"):
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            raise FlatlibError(f"{path}: has no function {name}")
        found = function()
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module)):
        raise FlatlibError(f"{target}: must return (model, data), a torch module and what it is measured on")
    return found


def examples(data: Any, most: int | None, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all examples, or the first `most`, of a pair of tensors, an iterable of batches or a data set.

    Raises:
        FlatlibError: The data are none of these, empty, or fail while they are read.
    """
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=BATCH)
    with explained("the data cannot be read"):
        x, y, _ = collect_batches(data)
    return x[:most].to(device), y[:most].to(device)


def measured(names: Sequence[str], checkpoint: Checkpoint) -> pd.DataFrame:
    """Return one row per measure: value, error (residual, standard error or gap), products, converged, exact, seconds.

    Cells without a number are missing; a value that is not defined for the network is NaN. What several measures share
    counts in the seconds of the first one.
    """
    for name in names:
        require_one_of("--measures", name, MEASURABLE)
    with contextlib.suppress(FlatlibError), explained("first product"):  # the first imports sympy: no part of seconds
        operator = checkpoint.hessian()
        operator.matvec(operator.gradient())
    rows: dict[str, dict[str, Any]] = {}
    for name in tqdm(names, desc="measuring", leave=False):
        start = time.perf_counter()
        numbers = measure([name], checkpoint, keep=True)
        seconds = time.perf_counter() - start
        numbers.pop(f"{name}_version", None)
        for key, value in numbers.items():
            if column := COMPANIONS.get(key.removeprefix(f"{name}_")):
                rows[name][column] = value
            else:
                rows[key] = {"value": value, "seconds": seconds}
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(COLUMNS)).rename_axis("measure")


def described(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """Return the network, the examples, the settings and the place of the measurement as plain JSON values."""
    trainable = [p for p in checkpoint.model.parameters() if p.requires_grad]
    return {
        "model": type(checkpoint.model).__name__,
        "parameters": sum(p.numel() for p in trainable),
        "dtype": str(trainable[0].dtype) if trainable else None,
        "examples": len(collect_batches(checkpoint.examples)[0]),
        **{name: getattr(checkpoint, name) for name in SETTINGS},
        "provenance": provenance(device),
    }
