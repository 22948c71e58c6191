"""The language model of the benchmark: a GPT of 0.34 million parameters that adds numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.device import seeded
from flatlib.training.models.gpt import GPT
from flatlib.training.sums import ALPHABET, sums

DIGITS = 3
CONTEXT = 3 * DIGITS + 3
UPDATES, BATCH, LEARNING_RATE = 300, 100, 1e-3  # of Adam; tuned so that the loss is a third of what it starts from


class NextToken(nn.Module):
    """GPT as a map from tokens (N, T) to logits (N, V, T), which PyTorch's cross-entropy and other libraries take.

    It needs no mask, since the padding comes last. Its attention is that without fused kernels, which have no second
    derivative: the other libraries do not switch them off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT(len(ALPHABET), CONTEXT, width=96, heads=4, layers=3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next token."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.gpt(tokens).transpose(1, 2)


def language_model(trained: bool, count: int, device: torch.device) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the model, at its random start or after some updates, and (tokens, labels) of so many sums."""
    batch = sums(count, DIGITS, seed=0)
    x, y = batch["input_ids"].to(device), batch["labels"].to(device)
    with seeded(1, device):
        model = NextToken().to(device)
    if trained:
        fit(model, x, y)
    return model, (x, y)


def fit(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Train the model in place on batches that take turns."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for update in range(UPDATES):
        chosen = torch.arange(BATCH * update, BATCH * (update + 1), device=x.device) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
