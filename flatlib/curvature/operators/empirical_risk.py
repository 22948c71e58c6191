"""What a Hessian is taken of: the loss, the examples and the block of parameters, checked before they are used."""

import fnmatch
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.errors import FlatlibError

Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
CLEAR = 1e-3
"""Relative difference between two losses that is not rounding."""
Loss = str | Callable[[Tensor, Tensor], Tensor]


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Mean over examples of $-\log \mathrm{softmax}(f)_y$; targets are classes (N,) or probabilities (N, C).

    PyTorch's -100 marks an example to ignore. Other classes that do not exist would stop a GPU for good.
    """
    if target.is_floating_point():
        return F.cross_entropy(output, target)
    least, most = (int(end) for end in target[target != IGNORED].aminmax()) if (target != IGNORED).any() else (0, 0)
    if output.ndim > 1 and not 0 <= least <= most < output.shape[1]:
        raise FlatlibError(f"the targets run from {least} to {most}, the outputs have {output.shape[1]} classes")
    return F.cross_entropy(output, target.long())


def mse(output: Tensor, target: Tensor) -> Tensor:
    r"""$\frac{1}{NC} \sum (f - y)^2$ (PyTorch's mean over all elements); classes (N,) become one-hot rows."""
    if not target.is_floating_point() and target.ndim == output.ndim - 1:
        target = target.unsqueeze(-1) == torch.arange(output.shape[-1], device=target.device)
        if not target.any(-1).all():
            raise FlatlibError(f"mse: a target is not one of the {output.shape[-1]} classes of the outputs")
    if target.shape != output.shape:
        raise FlatlibError(f"mse: targets of shape {tuple(target.shape)} for outputs of shape {tuple(output.shape)}")
    return F.mse_loss(output, target.to(output.dtype))


IGNORED = -100
LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


def resolve_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss by name, or the callable itself, which must average over examples: a sum has another Hessian.

    PyTorch's own cross-entropy, without options, is the one of that name: what is known of it need not be found out.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise FlatlibError(f'loss "{loss}" is unknown; choose one of {", ".join(LOSSES)} or pass a callable')
        return LOSSES[loss]
    if not callable(loss):
        raise FlatlibError(f"the loss must be a name or a callable, not {type(loss).__name__}")
    if loss is F.cross_entropy or (type(loss) is nn.CrossEntropyLoss and _has_no_options(loss)):
        return cross_entropy
    if getattr(loss, "reduction", "mean") != "mean":
        raise FlatlibError(f'the loss has reduction="{loss.reduction}": only "mean" weights examples alike')
    return loss


def _has_no_options(loss: nn.CrossEntropyLoss) -> bool:
    options = (loss.weight, loss.ignore_index, loss.reduction, loss.label_smoothing)
    return options == (None, IGNORED, "mean", 0.0) and not loss._forward_hooks and not loss._forward_pre_hooks


@torch.no_grad()
def require_mean(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, value: float) -> None:
    """Raise a `FlatlibError` if giving every example twice doubles the loss: a sum has N times the curvature."""
    twice = float(loss(torch.cat([output, output]), torch.cat([target, target])))
    if value != 0 and abs(twice - 2 * value) <= CLEAR * abs(value):
        raise FlatlibError("the loss is a sum over examples: it must be a mean, a sum's curvature grows with the data")


def require_independent(output: Tensor, last: Tensor) -> None:
    """Raise a `FlatlibError` if the last examples have other outputs alone than with the rest of their chunk."""
    together = output[-len(last) :]
    if last.shape == together.shape and not (last - together).norm() <= CLEAR * together.norm():
        raise FlatlibError(
            "the outputs of one example depend on the others (batch norm without running statistics, a first "
            "dimension that is not the examples?): measure all as one chunk, chunk_size=len(x)"
        )


@torch.no_grad()
def require_additive(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, value: float) -> None:
    """Raise a `FlatlibError` if the loss of a chunk is not the mean of its parts': chunks cannot be added up then."""
    n = len(output)
    cuts = (0, n // 3, n) if n > 2 else (0, 1, n)
    parts = [(b - a, float(loss(output[a:b], target[a:b]))) for a, b in itertools.pairwise(cuts) if b > a]
    if not abs(sum(k * part for k, part in parts) / n - value) <= CLEAR * max(abs(part) for _, part in parts):
        raise FlatlibError(
            "the loss is not a mean over examples (it weights or ignores some?): measure all of them as one chunk, "
            "chunk_size=len(x)"
        )


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


def collect_batches(data: Data) -> tuple[Tensor, Tensor, int]:
    """All inputs, all targets and the number of batches that they came in, from a pair or an iterable of pairs."""
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise FlatlibError(f"the data must be (inputs, targets) or batches of these, got {type(data).__name__}")
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


def _kind(batch: object) -> str:
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return type(batch).__name__


def _pair(batch: object) -> tuple[Tensor, Tensor]:
    if not _is_pair(batch):
        raise FlatlibError(
            f"a batch must be (inputs, targets), two tensors; got {_kind(batch)} (flatlib.curvature.pairs "
            "takes them from dictionaries)"
        )
    x, y = (part.detach() for part in batch)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise FlatlibError(
            f"inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} are not N pairs"
            + (" (a data set's single examples come in batches from a DataLoader)" if y.ndim == 0 else "")
        )
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
