"""The training loss: cross-entropy of hard, smoothed or mixed targets, and one that a paper used by mistake."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


class SmoothedCrossEntropy:
    r"""Mean over examples of $-\sum_c q_c \log p_c - H(q)$, $q = (1 - s)\, t + s / C$ of the target t.

    Without the entropy H(q) of the targets it would not be zero where the network predicts exactly q (MacDonald et al.
    2023, Figure 1). The gradient is that of the cross-entropy.

    Args:
        smoothing: s, in [0, 1).
    """

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean, in nats, of logits (N, C) and classes (N,) or probabilities (N, C)."""
        cross_entropy = F.cross_entropy(output, target, label_smoothing=self.smoothing)
        return cross_entropy - self.entropy(target, output.shape[1])

    def entropy(self, target: Tensor, classes: int) -> Tensor | float:
        """Return the mean over examples of H(q), in nats."""
        if target.is_floating_point():
            q = (1 - self.smoothing) * target + self.smoothing / classes
            return torch.special.entr(q).sum(1).mean()
        q = torch.full((classes,), self.smoothing / classes, dtype=torch.float64)
        q[0] += 1 - self.smoothing
        return float(torch.special.entr(q).sum())


def batch_softmax_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Compute the cross-entropy of $z_{nc} - \log \sum_m e^{z_{mc}}$.

    A log-softmax over the batch, where classes were meant, precedes the one over classes inside the cross-entropy.

    The public code of Bejan et al. 2022 trains on this. The loss of an example depends on the others of its batch,
    and a constant added to a class's output changes nothing: that class's bias is not trained.

    Args:
        output: (N, C) outputs z.
        target: (N,) classes.

    Returns:
        The mean, in nats.
    """
    return F.cross_entropy(F.log_softmax(output, dim=0), target)


def training_loss(name: str, smoothing: float = 0.0) -> Loss:
    """Return the training loss with this name; PyTorch's own function where labels are not smoothed.

    Args:
        name: ``cross_entropy`` or ``batch_softmax``.
        smoothing: Share of the target that is spread evenly over the classes, in [0, 1).
    """
    if name == "batch_softmax":
        return batch_softmax_cross_entropy
    return SmoothedCrossEntropy(smoothing) if smoothing else F.cross_entropy
