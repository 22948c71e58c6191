"""Embeddings with the derivative of what they compute: PyTorch's options change the gradient, or the weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib.errors import FlatlibError


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Compute ``F.embedding``, with a dense gradient that is not divided by the frequency of an index.

    The row of ``padding_idx`` stays a constant, as in training.
    """
    _require_constant_weights(max_norm)
    return F.embedding(input, weight, padding_idx)


def embedding_of(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """Compute ``torch.embedding`` likewise."""
    return torch.embedding(weight, indices, padding_idx)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Compute ``F.embedding_bag``, which PyTorch differentiates once; an empty bag is zero."""
    _require_constant_weights(max_norm)
    indices = input.reshape(-1)
    bags, count = _bags(input, offsets, include_last_offset)
    if padding_idx is not None:
        kept = indices != padding_idx % len(weight)
        indices, bags = indices[kept], bags[kept]
    rows = weight.index_select(0, indices)
    zeros = rows.new_zeros(count, weight.shape[1])
    if mode == "max":
        return zeros.scatter_reduce(0, bags[:, None].expand_as(rows), rows, "amax", include_self=False)
    if per_sample_weights is not None:
        factors = per_sample_weights.reshape(-1)
        rows = rows * (factors if padding_idx is None else factors[kept])[:, None]
    total = zeros.index_add(0, bags, rows)
    return total if mode == "sum" else total / bags.bincount(minlength=count).clamp_min(1)[:, None]


def _bags(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Tensor, int]:
    """Return each index's bag, and the number of bags."""
    if offsets is None:
        return torch.arange(len(input), device=input.device).repeat_interleave(input.shape[1]), len(input)
    ends = offsets.new_tensor([] if include_last_offset else [len(input)])
    sizes = torch.cat([offsets, ends]).diff()
    return torch.arange(len(sizes), device=input.device).repeat_interleave(sizes), len(sizes)


def _require_constant_weights(max_norm: float | None) -> None:
    if max_norm is not None:
        raise FlatlibError(
            f"an embedding with max_norm={max_norm} changes its weights when it is run: set its max_norm to None to "
            "measure it after training"
        )
