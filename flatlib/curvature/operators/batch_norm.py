"""Re-estimation of batch-norm statistics on the data at hand, as averaged weights need it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.errors import FlatlibError


class _InputReached(Exception):
    """Stops a forward pass at the layer whose input is needed."""


@torch.no_grad()
def recalibrate(model: nn.Module, chunks: Callable[[], Iterable[Tensor]]) -> None:
    r"""Set every batch norm's running mean and variance to those of its input over all examples, in place.

    Layers are visited in the order of the computation, each fed by the recalibrated layers before it. The result is
    that of one forward pass in train mode over all examples as one batch, however they are chunked; PyTorch's
    ``update_bn`` averages over batches instead. As in PyTorch, the biased variance normalizes during estimation, and
    the unbiased one is kept.

    Args:
        model: A network in evaluation mode.
        chunks: Function that returns the inputs, chunk by chunk; called once for each layer.

    Raises:
        FlatlibError: If a layer receives a single value per channel.
    """
    counts: dict[Any, int] = {}  # batch norms with running statistics
    while (found := _next_statistics(model, chunks, set(counts))) is not None:
        layer, count, mean, variance = found
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        counts[layer] = count
    for layer, count in counts.items():
        layer.running_var.mul_(count / (count - 1))


def _next_statistics(
    model: nn.Module, chunks: Callable[[], Iterable[Tensor]], done: set[Any]
) -> tuple[Any, int, Tensor, Tensor] | None:
    """Return the first layer not done, and its input's count, mean and variance per channel; None if all are done."""
    inputs: list[tuple[nn.Module, Tensor]] = []

    def stop(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append((layer, arguments[0]))
        raise _InputReached

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    waiting = [norm for norm in norms if norm.running_mean is not None and norm not in done]
    handles = [layer.register_forward_pre_hook(stop) for layer in waiting]
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    try:
        for x in chunks() if handles else ():
            try:
                model(x)
                return None
            except _InputReached:
                layer, features = inputs.pop()
            values = features.double().transpose(0, 1).flatten(1)
            count += values.shape[1]
            total, squares = total + values.sum(1), squares + values.square().sum(1)
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        return None
    if count == 1:
        raise FlatlibError("batch norm cannot be recalibrated on a single value a channel: pass more examples")
    mean = total / count
    return layer, count, mean, (squares / count - mean.square()).clamp_min(0)
