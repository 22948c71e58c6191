"""The empirical risk whose curvature is measured: what a loss takes, dictionaries as batches, blocks of parameters."""

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from flatlib.errors import FlatlibError

Data = Any  # a batch or an iterable of batches, see ``Examples``
Loss = str | Callable[..., Tensor]
MODEL_NAMES = ("model", "net", "network", "module")  # of the first argument of a loss that takes (model, batch)


def inputs_in_a_batch(loss: Callable) -> int | None:
    """Return how many entries of a batch are inputs, by what the loss takes.

    Returns:
        -1, all but the last, for a loss of (output, target); 1 for one of (output, target, weight); None for one of
        (model, batch), whose first argument is called ``model``, ``net``, ``network`` or ``module``.
    """
    try:
        arguments = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):  # built into Python or PyTorch
        return -1
    required = [
        a.name for a in arguments if a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) == 2 and required[0] in MODEL_NAMES:
        return None
    return 1 if len(required) == 3 else -1


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
