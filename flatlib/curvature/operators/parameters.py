"""Blocks of a model's parameters, by name."""

import fnmatch
from collections.abc import Sequence

from torch import nn

from flatlib.errors import FlatlibError


def select_parameters(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Return the parameters that match the patterns (by default: that require grad); the others stop requiring grad."""
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
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
