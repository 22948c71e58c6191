"""The empirical risk whose curvature is measured: loss, examples and parameters, checked before use."""

import fnmatch
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from flatlib.errors import FlatlibError

Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
Loss = str | Callable[[Tensor, Tensor], Tensor]
LOSS_TOLERANCE = 1e-3  # relative difference between two losses that rounding does not explain


@torch.no_grad()
def require_mean(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, value: float) -> None:
    """Raise a ``FlatlibError`` if repeating every example doubles the loss: a sum has N times the curvature."""
    twice = float(loss(torch.cat([output, output]), torch.cat([target, target])))
    if value != 0 and abs(twice - 2 * value) <= LOSS_TOLERANCE * abs(value):
        raise FlatlibError("the loss is a sum over examples: it must be a mean, a sum's curvature grows with the data")


def require_independent(output: Tensor, last: Tensor) -> None:
    """Raise a ``FlatlibError`` if the last examples have other outputs alone than with the rest of their chunk."""
    together = output[-len(last) :]
    if last.shape == together.shape and not (last - together).norm() <= LOSS_TOLERANCE * together.norm():
        raise FlatlibError(
            "the outputs of one example depend on the others (batch norm without running statistics, a first "
            "dimension that is not the examples?): measure all as one chunk, chunk_size=len(x)"
        )


@torch.no_grad()
def require_additive(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, value: float) -> None:
    """Raise a ``FlatlibError`` if the loss of a chunk is not the mean of its parts' losses: chunks cannot be summed."""
    n = len(output)
    cuts = (0, n // 3, n) if n > 2 else (0, 1, n)
    parts = [(b - a, float(loss(output[a:b], target[a:b]))) for a, b in itertools.pairwise(cuts) if b > a]
    if not abs(sum(k * part for k, part in parts) / n - value) <= LOSS_TOLERANCE * max(abs(part) for _, part in parts):
        raise FlatlibError(
            "the loss is not a mean over examples (it weights or ignores some?): measure all of them as one chunk, "
            "chunk_size=len(x)"
        )


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


def collect_batches(data: Data) -> tuple[Tensor, Tensor, int]:
    """Return all inputs, all targets and the number of batches, from one pair or an iterable of pairs."""
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise FlatlibError(f"the data must be (inputs, targets) or batches of these, got {type(data).__name__}")
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed from the global state
        batches = [_require_pair(batch) for batch in ([data] if _is_pair(data) else data)]
    batches = [(x, y) for x, y in batches if len(x) > 0]
    if not batches:
        raise FlatlibError("the data are empty: there is no loss to measure")
    if len(batches) == 1:
        return *batches[0], 1
    try:
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]), len(batches)
    except RuntimeError as error:
        raise FlatlibError(f"the batches do not fit together: {error}") from error


def _is_pair(data: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    return isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _require_pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not _is_pair(batch):
        kind = type(batch).__name__
        if isinstance(batch, tuple | list):
            kind += f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
        raise FlatlibError(
            f"a batch must be (inputs, targets), two tensors; got {kind} (flatlib.curvature.from_dict_batches "
            "converts dictionaries)"
        )
    with torch.inference_mode(False):  # a tensor made in inference mode cannot be differentiated through
        x, y = (part.clone() if part.is_inference() else part.detach() for part in batch)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise FlatlibError(
            f"inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} are not N pairs"
            + (" (a data set's single examples come in batches from a DataLoader)" if y.ndim == 0 else "")
        )
    return x, y


def require_inputs(model: nn.Module, inputs: Tensor) -> None:
    """Raise a ``FlatlibError`` for integer inputs without an embedding: raw pixels are at the wrong scale."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    if not (inputs.is_floating_point() or inputs.is_complex() or embeds):
        raise FlatlibError(
            f"inputs of {inputs.dtype} do not suit {type(model).__name__}: convert them to floating point"
        )


def select_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Return the parameters that match the patterns (by default: that require grad); the others stop requiring grad."""
    named = dict(model.named_parameters())
    if patterns is None:
        chosen = [name for name, p in named.items() if p.requires_grad]
    else:
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in patterns:
            if not fnmatch.filter(named, pattern):
                raise FlatlibError(f'no parameter matches "{pattern}"; the model has {", ".join(named)}')
        chosen = [name for name in named if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise FlatlibError(f"{type(model).__name__} has no trainable parameter: there is no Hessian to measure")
    for name, p in named.items():
        p.requires_grad_(name in chosen)
    return {name: named[name] for name in chosen}
