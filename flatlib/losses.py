"""The training loss: cross-entropy of hard, smoothed or mixed targets, and one that a paper used by mistake."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib.config import RunConfig

Loss = Callable[[Tensor, Tensor], Tensor]


class SmoothedCrossEntropy:
    r"""Mean over examples of $-\sum_c q_c \log p_c - H(q)$, $q = (1 - s)\, t + s / C$ of the target t.

    Less the entropy H(q) of the targets, it is zero where the network says exactly q (MacDonald et al. 2023, figure 1);
    the gradient is that of the cross-entropy.

    smoothing: s, in [0, 1).
    """

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """output: (N, C) logits. target: classes (N,) or probabilities (N, C). The mean, in nats."""
        cross_entropy = F.cross_entropy(output, target, label_smoothing=self.smoothing)
        return cross_entropy - self.entropy(target, output.shape[1])

    def entropy(self, target: Tensor, classes: int) -> Tensor | float:
        """Mean over examples of H(q), in nats."""
        if target.is_floating_point():
            q = (1 - self.smoothing) * target + self.smoothing / classes
            return torch.special.entr(q).sum(1).mean()
        q = torch.full((classes,), self.smoothing / classes, dtype=torch.float64)
        q[0] += 1 - self.smoothing
        return float(torch.special.entr(q).sum())


def batch_softmax_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy of $z_{nc} - \log \sum_m e^{z_{mc}}$: a log-softmax over the batch, where classes were meant,
    comes before the one over classes that the cross-entropy has itself.

    The public code of Bejan et al. 2022 trains on this. The loss of an example depends on the others of its batch,
    and a constant added to a class's output changes nothing: that class's bias is not trained.

    output: (N, C). target: classes (N,). The mean, in nats.
    """
    return F.cross_entropy(F.log_softmax(output, dim=0), target)


def training_loss(config: RunConfig) -> Loss:
    """What a configuration trains on; PyTorch's own function where nothing is smoothed."""
    if config.loss == "batch_softmax":
        return batch_softmax_cross_entropy
    return SmoothedCrossEntropy(config.label_smoothing) if config.label_smoothing else F.cross_entropy
