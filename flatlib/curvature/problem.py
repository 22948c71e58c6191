"""What a Hessian is taken of: the loss, the examples and the block of parameters, checked before they are used."""

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.errors import FlatlibError

Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
Loss = str | Callable[[Tensor, Tensor], Tensor]


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Mean over examples of $-\log \mathrm{softmax}(f)_y$; targets are classes (N,) or probabilities (N, C)."""
    return F.cross_entropy(output, target)


def mse(output: Tensor, target: Tensor) -> Tensor:
    r"""$\frac{1}{NC} \sum (f - y)^2$ (PyTorch's mean over all elements); classes (N,) become one-hot rows."""
    if not target.is_floating_point() and target.ndim == output.ndim - 1:
        target = F.one_hot(target.long(), output.shape[-1])
    if target.shape != output.shape:
        raise FlatlibError(f"mse: targets of shape {tuple(target.shape)} for outputs of shape {tuple(output.shape)}")
    return F.mse_loss(output, target.to(output.dtype))


LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


def resolve_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss by name, or the callable itself, which must average over examples: a sum has another Hessian."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise FlatlibError(f'loss "{loss}" is unknown; choose one of {", ".join(LOSSES)} or pass a callable')
        return LOSSES[loss]
    if not callable(loss):
        raise FlatlibError(f"the loss must be a name or a callable, not {type(loss).__name__}")
    if getattr(loss, "reduction", "mean") != "mean":
        raise FlatlibError(f'the loss has reduction="{loss.reduction}": only "mean" weights examples alike')
    return loss


def pairs(batches: Iterable[Mapping[str, Tensor]], inputs: str, targets: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) of batches that are dictionaries, by their keys.

    >>> [x.shape for x, y in pairs([{"image": torch.ones(3, 2), "label": torch.ones(3)}], "image", "label")]
    [torch.Size([3, 2])]
    """
    for batch in batches:
        for key in (inputs, targets):
            if key not in batch:
                raise FlatlibError(f'a batch has no "{key}"; it has {", ".join(map(str, batch))}')
        yield batch[inputs], batch[targets]


def materialise(data: Data) -> tuple[Tensor, Tensor, int]:
    """All inputs, all targets and the number of batches that they came in, from a pair or an iterable of pairs."""
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed from the global state
        batches = [_pair(batch) for batch in ([data] if _is_pair(data) else data)]
    batches = [(x, y) for x, y in batches if len(x) > 0]
    if not batches:
        raise FlatlibError("the data are empty: there is no loss to measure")
    if len(batches) == 1:
        return *batches[0], 1
    try:
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]), len(batches)
    except RuntimeError as error:
        raise FlatlibError(f"the batches do not fit together: {error}") from error


def _is_pair(data: object) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _pair(batch: object) -> tuple[Tensor, Tensor]:
    if not _is_pair(batch):
        raise FlatlibError(
            f"a batch must be (inputs, targets), two tensors; got {type(batch).__name__} (flatlib.curvature.pairs "
            "takes them from dictionaries)"
        )
    x, y = (part.detach() for part in batch)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise FlatlibError(f"inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} are not N pairs")
    return x, y


def require_inputs(model: nn.Module, inputs: Tensor) -> None:
    """Integers are inputs only for an embedding: raw pixels would be measured at the wrong scale, if at all."""
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    if not inputs.is_floating_point() and not embeds:
        raise FlatlibError(
            f"inputs of {inputs.dtype} do not suit {type(model).__name__}: convert them to floating point"
        )


def select(model: nn.Module, patterns: str | Sequence[str] | None) -> dict[str, nn.Parameter]:
    """The parameters that the patterns name, by default those that require grad; the others stop requiring it."""
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
