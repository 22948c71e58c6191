"""Losses that PyTorch differentiates once, composed of functions that it differentiates twice."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

IMPOSSIBLE = -1e30  # logarithm of the probability zero; with infinity its derivative would be NaN


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute $\frac1C \sum_{c \ne y} w_y \max(0, m - f_y + f_c)^p$ of outputs f, (N, C) or (C,), and classes y."""
    classes = target.reshape(*input.shape[:-1], 1)
    excess = (margin - input.gather(-1, classes) + input).clamp_min(0).pow(p)
    if weight is not None:
        excess = excess * weight[classes]
    others = classes != torch.arange(input.shape[-1], device=input.device)
    return _reduced((excess * others).mean(-1), size_average, reduce, reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute $\frac1C \sum_{y} \sum_{c} \max(0, 1 - f_y + f_c)$ over the labels y before the first -1 and the other
    classes c, of outputs f and labels, (N, C) or (C,)."""
    given = (target >= 0).cummin(-1).values  # labels, not what follows them
    labels = target.clamp_min(0)
    is_label = torch.zeros_like(given).scatter_reduce(-1, labels, given, "amax")
    excess = (1 - input.gather(-1, labels).unsqueeze(-1) + input.unsqueeze(-2)).clamp_min(0)
    pairs = given.unsqueeze(-1) & ~is_label.unsqueeze(-2)
    return _reduced((excess * pairs).sum((-2, -1)) / input.shape[-1], size_average, reduce, reduction)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    r"""Compute the connectionist temporal classification loss by its forward recursion (Graves et al. 2006, equations
    6 and 7), in logarithms; arguments as those of ``F.ctc_loss``.

    ``alpha`` (N, 2 S + 1) is the probability of all ways to have reached each of the labels, with a blank before,
    between and after them.
    """
    if log_probs.ndim == 2:
        time, size = (torch.as_tensor(n).reshape(1) for n in (input_lengths, target_lengths))
        alone = ctc_loss(log_probs.unsqueeze(1), targets.reshape(1, -1), time, size, blank, reduction, zero_infinity)
        return alone.reshape(())
    inputs, sizes = (torch.as_tensor(n, device=log_probs.device) for n in (input_lengths, target_lengths))
    labels = _with_blanks(targets.to(log_probs.device), sizes, blank)
    scores = log_probs.gather(2, labels.expand(len(log_probs), *labels.shape))
    may_skip = (labels != blank) & (labels != labels.roll(2, 1))  # a blank is skipped between different labels only
    place = torch.arange(labels.shape[1], device=labels.device)
    alpha = torch.where(place < 2, scores[0], IMPOSSIBLE)
    for t in range(1, len(scores)):
        before = F.pad(alpha, (2, 0), value=IMPOSSIBLE)
        ways = torch.stack([alpha, before[:, 1:-1], torch.where(may_skip, before[:, :-2], IMPOSSIBLE)])
        alpha = torch.where(t < inputs[:, None], ways.logsumexp(0) + scores[t], alpha)
    ends = torch.where((place <= 2 * sizes[:, None]) & (place >= 2 * sizes[:, None] - 1), alpha, IMPOSSIBLE)
    loss = -ends.logsumexp(1)
    loss = torch.where(loss < -IMPOSSIBLE / 2, loss, 0.0 if zero_infinity else torch.inf)
    return _reduced(loss / sizes.clamp_min(1) if reduction == "mean" else loss, None, None, reduction)


def _with_blanks(targets: Tensor, sizes: Tensor, blank: int) -> Tensor:
    """Return each target with a blank before, between and after its labels, from padded or concatenated targets."""
    if targets.ndim == 1:
        targets = torch.nn.utils.rnn.pad_sequence(targets.split(sizes.tolist()), batch_first=True)
    labels = targets.new_full((len(targets), 2 * targets.shape[1] + 1), blank, dtype=torch.long)
    labels[:, 1::2] = torch.where(torch.arange(targets.shape[1], device=sizes.device) < sizes[:, None], targets, blank)
    return labels


def _reduced(losses: Tensor, size_average: bool | None, reduce: bool | None, reduction: str) -> Tensor:
    """Return the losses of the examples, their mean or their sum, as PyTorch's arguments say."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()
