"""A network of the user's own: loaded from a function in a file, and measured into a table of numbers with errors."""

import contextlib
import importlib.util
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.device import seeded
from flatlib.errors import FlatlibError, explained
from flatlib.losses import LOSSES
from flatlib.measures import REGISTRY, Checkpoint, measure
from flatlib.runs.provenance import provenance

# Measures that need more than a model and examples: test images, a training step, an optimizer.
UNMEASURABLE = ("performance", "cross_entropy", "between_iterates", "preconditioned_lambda_max")
MEASURABLE = tuple(name for name in REGISTRY if name not in UNMEASURABLE)
COLUMNS = ("value", "error", "products", "converged", "exact", "seconds")
COMPANIONS = {  # column of each companion of a measure: a residual, a standard error and a gap are all its error
    **dict.fromkeys(("residual", "standard_error", "frank_wolfe_gap", "error"), "error"),
    **{name: name for name in ("products", "converged", "exact")},
}
Row = dict[str, Any]


class UserFiles:
    """The user's files, each run once, so that a model and a loss of the same file share what the file defines."""

    def __init__(self) -> None:
        self._modules: dict[Path, ModuleType] = {}

    def function(self, target: str, description: str) -> Any:
        """Return what a ``FILE.py:FUNCTION`` names.

        Raises:
            FlatlibError: There is no such file or function, or the file fails.
        """
        file, _, name = target.rpartition(":")
        path = Path(file)
        if not file or path.suffix != ".py" or not name.isidentifier():
            raise FlatlibError(f"{target}: expected FILE.py:FUNCTION, {description}")
        if not path.is_file():
            raise FlatlibError(f"{path}: no such file")
        with self.explained(f"{target}: failed"):
            function = getattr(self._module(path.resolve()), name, None)
        if not callable(function):
            raise FlatlibError(f"{path}: has no function {name}")
        return function

    def _module(self, path: Path) -> ModuleType:
        """Run a file unless it was run before."""
        if path not in self._modules:
            spec = importlib.util.spec_from_file_location(f"{path} of flatlib measure", path)
            assert spec is not None  # the suffix is one that Python imports
            assert spec.loader is not None
            self._modules[path] = module = importlib.util.module_from_spec(spec)
            # Kept: data may import a neighbour of the file when read, and dataclasses and pickle look their module up.
            sys.path.insert(0, str(path.parent))
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        return self._modules[path]

    @contextlib.contextmanager
    def explained(self, message: str) -> Iterator[None]:
        """Turn an error of the user's code into a `FlatlibError` that names the line; `SystemExit` is one as well."""
        try:
            with explained(message):
                yield
        except (FlatlibError, SystemExit) as error:
            text = f"{message}: SystemExit: {error}" if isinstance(error, SystemExit) else str(error)
            raise FlatlibError(f"{text}{self.place(error)}") from error

    def place(self, error: BaseException) -> str:
        """Return the deepest line of the user's files that the error's cause passed, as " (FILE, line N)", or ""."""
        frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
        lines = [frame for frame in frames if Path(frame.filename) in self._modules]
        return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""


def load(target: str, files: UserFiles) -> tuple[nn.Module, Any]:
    """Return (model, data), which the function of a ``FILE.py:FUNCTION`` returns.

    Raises:
        FlatlibError: There is no such function, it fails, or returns anything else.
    """
    function = files.function(target, "a function of yours that returns (model, data)")
    with files.explained(f"{target}: failed"):
        found = function()
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module)):
        raise FlatlibError(f"{target}: must return (model, data), a torch module and what it is measured on")
    return found


def load_loss(name: str, files: UserFiles) -> Loss:
    """Return a loss by its name, or by the ``FILE.py:FUNCTION`` that names one of the user's own."""
    if name in LOSSES:
        return name
    if ":" not in name:
        raise FlatlibError(f"--loss: unknown name {name!r}; allowed: {', '.join(LOSSES)}, or FILE.py:FUNCTION")
    return files.function(name, "a function of yours of (output, target) that returns the mean over examples")


def warm_up(names: Sequence[str], checkpoint: Checkpoint) -> None:
    """Take each measure of a tiny network, and one product of the user's, whatever comes of it.

    What is imported and initialized at the first use, such as sympy at the first product, is then no part of any
    measure's seconds.
    """
    first = next(checkpoint.model.parameters(), torch.zeros(0))
    with seeded(0, first.device):
        tiny = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).to(first)
    pair = torch.eye(4).to(first), torch.tensor([0, 1, 2, 0], device=first.device)
    for name in names:
        with contextlib.suppress(FlatlibError):
            measure([name], Checkpoint(model=tiny, examples=pair, train=pair))
    with contextlib.suppress(FlatlibError), explained("first product"):
        operator = checkpoint.hessian()
        operator.matvec(operator.gradient())


def measured(names: Sequence[str], checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, Row] | FlatlibError]]:
    """Yield each measure's name with its rows, or with the error that refused it, as soon as it is known."""
    warm_up(names, checkpoint)
    for name in (bar := tqdm(names, desc="measuring", leave=False)):
        bar.set_description(f"measuring {name}")
        start = time.perf_counter()
        try:
            numbers = measure([name], checkpoint, keep=True)
        except FlatlibError as error:
            yield name, error
            continue
        seconds = time.perf_counter() - start
        numbers.pop(f"{name}_version", None)
        rows: dict[str, Row] = {}
        for key, value in numbers.items():
            if column := COMPANIONS.get(key.removeprefix(f"{name}_")):
                rows[name][column] = value
            else:
                rows[key] = {"value": value, "seconds": seconds}
        yield name, rows


def table(rows: dict[str, Row]) -> pd.DataFrame:
    """Return one row per measure: value, error (a residual or a standard error), products, converged, exact, seconds.

    Cells without a number are missing; a value that is not defined for the network is NaN.
    """
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(COLUMNS)).rename_axis("measure")


def described(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return the network and the place of the measurement as plain JSON values."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in trainable),
        "dtype": str(trainable[0].dtype) if trainable else None,
        "provenance": provenance(device),
    }
