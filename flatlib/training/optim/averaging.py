"""Average of the iterates as a network."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flatlib.curvature.operators.batch_norm import recalibrate


class Average:
    r"""Mean $\bar w_n = \frac1n \sum_{i \le n} w_i$ of the added iterates (Izmailov et al. 2018, equation 1).

    Granziol's "Gadam" averages those of Adam.
    """

    def __init__(self, model: nn.Module):
        self._average = AveragedModel(model)

    @property
    def count(self) -> int:
        """Number of iterates."""
        return int(self._average.n_averaged)

    def add(self, model: nn.Module) -> None:
        """Add one iterate."""
        self._average.update_parameters(model)

    @torch.no_grad()
    def network(self, inputs: Callable[[], Iterable[Tensor]]) -> nn.Module:
        """Return the averaged network in evaluation mode, with batch norm's statistics estimated again on the inputs.

        The statistics of any one iterate do not fit averaged weights. `recalibrate` gives those of all inputs as one
        batch, however they are chunked, where PyTorch's `update_bn` averages over batches.
        """
        network = self._average.module.eval()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
            recalibrate(network, inputs)
        return network
