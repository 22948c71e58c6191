"""Average of the iterates as a network (Izmailov et al. 2018, equation 1; Granziol's "Gadam" averages Adam's)."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flatlib.curvature.operators.batch_norm import recalibrate


@torch.no_grad()
def averaged_network(average: AveragedModel, inputs: Callable[[], Iterable[Tensor]]) -> nn.Module:
    """Return the average in evaluation mode, with batch norm's statistics estimated again on the inputs.

    The statistics of any one iterate do not fit averaged weights. `recalibrate` gives those of all inputs as one batch,
    however they are chunked, where PyTorch's `update_bn` averages over batches.
    """
    network = average.module.eval()
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
        recalibrate(network, inputs)
    return network
