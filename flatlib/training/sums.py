"""Sums written as text, for language models: "17+5=22." and the like."""

import torch
from torch import Tensor

ALPHABET = "0123456789+=."
IGNORED = -100  # label that PyTorch's cross-entropy does not count


def sums(count: int, digits: int, seed: int) -> dict[str, Tensor]:
    """Return random sums as a batch for a language model, padded on the right.

    >>> batch = sums(2, digits=1, seed=0)
    >>> ["".join(ALPHABET[token] for token in row) for row in batch["input_ids"]]
    ['4+9=13', '3+0=30']

    Args:
        count: Number N of sums.
        digits: Digits of the largest terms.
        seed: Seed of the terms.

    Returns:
        ``input_ids``, the tokens but the last, places in ``ALPHABET``; ``attention_mask``, 1 for tokens and 0 for
        padding; ``labels``, each place's next token, or -100 in the question and in the padding. All (N, T).
    """
    terms = torch.randint(10**digits, (count, 2), generator=torch.Generator().manual_seed(seed))
    texts = [f"{a}+{b}={a + b}." for a, b in terms.tolist()]
    longest = 3 * digits + 3
    batch = {name: torch.zeros(count, longest, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((count, longest), IGNORED)
    for row, text in enumerate(texts):
        tokens = torch.tensor([ALPHABET.index(character) for character in text])
        equals = text.index("=")
        batch["input_ids"][row, : len(text) - 1] = tokens[:-1]
        batch["attention_mask"][row, : len(text) - 1] = 1
        batch["labels"][row, equals : len(text) - 1] = tokens[equals + 1 :]
    return batch
