"""A small GPT, and adapters of low rank for its weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Block(nn.Module):
    """Causal self-attention and an MLP, each on normalized inputs and added to them (Radford et al. 2019, GPT-2).

    Args:
        width: Size of a token's vector.
        heads: Number of attention heads, a divisor of the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return new vectors of the tokens, (N, T, width); ``visible`` says which token sees which, (N, 1, T, T)."""
        parts = self.attention(self.norm1(x)).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.merge(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Network that predicts the next token of a sequence; its input and output embeddings are one tensor.

    >>> sum(p.numel() for p in GPT(vocabulary=13, context=12, width=96, heads=4, layers=3).parameters())
    338112

    Args:
        vocabulary: Number V of different tokens.
        context: Length of the longest sequence.
        width: Size of a token's vector.
        heads: Number of attention heads, a divisor of the width.
        layers: Number of blocks.
    """

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, layers: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)  # as GPT-2

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits of each next token, (N, T, V).

        Args:
            input_ids: Tokens, (N, T).
            attention_mask: 1 for tokens, 0 for padding, (N, T); by default all are tokens.
        """
        length = input_ids.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()[None, None]
        if attention_mask is not None:
            visible = visible & attention_mask.bool()[:, None, None]
        x = self.tokens(input_ids) + self.places.weight[:length]
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.norm(x))


class LowRank(nn.Module):
    """Parametrization that adds a product of two thin matrices to a weight (LoRA, Hu et al. 2022, section 4.1).

    Args:
        weight: The weight (out, in), which it leaves alone.
        rank: Number of columns of the left factor B and rows of the right factor A.
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape
        self.A = nn.Parameter(torch.randn(rank, columns).to(weight) / math.sqrt(columns))
        self.B = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the product added."""
        return weight + self.B @ self.A


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over tokens, in nats; labels of -100 do not count.

    Args:
        logits: (N, T, V).
        labels: (N, T).
    """
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def add_adapters(model: GPT, rank: int) -> None:
    """Add an adapter to each block's attention, in place; no other parameter requires grad any more."""
    model.requires_grad_(False)
    for block in model.modules():
        if isinstance(block, Block):
            parametrize.register_parametrization(block.attention, "weight", LowRank(block.attention.weight, rank))
