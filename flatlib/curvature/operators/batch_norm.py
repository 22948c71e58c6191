"""Batch norm statistics estimated again on the data at hand, as averaged iterates need them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from flatlib.errors import FlatlibError


class _Reached(Exception):
    """The forward pass has come to the layer whose input was wanted."""


@torch.no_grad()
def recalibrate(model: nn.Module, chunks: Callable[[], Iterable[Tensor]]) -> None:
    r"""Set every batch norm's running mean and variance to those of its input over all examples, in place.

    Layer after layer in the order of the computation, each fed by the layers before it with their new statistics. So
    they are the statistics of one forward pass in train mode over all examples as one batch, however these are
    chunked; PyTorch's `update_bn` averages over batches instead. As PyTorch does, the batch's own variance normalises
    during estimation, and the unbiased one is kept.

    model: in evaluation mode. chunks: the inputs, as often as asked for.

    Raises `FlatlibError` for a layer that sees a single value a channel.
    """
    counts: dict[nn.Module, int] = {}
    while (found := _next_statistics(model, chunks, set(counts))) is not None:
        layer, count, mean, variance = found
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        counts[layer] = count
    for layer, count in counts.items():
        layer.running_var.mul_(count / (count - 1))


def _next_statistics(
    model: nn.Module, chunks: Callable[[], Iterable[Tensor]], done: set[nn.Module]
) -> tuple[nn.Module, int, Tensor, Tensor] | None:
    """The first layer not done, and its input's count, mean and variance per channel; None if all are done."""
    inputs: list[tuple[nn.Module, Tensor]] = []

    def reached(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append((layer, arguments[0]))
        raise _Reached

    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    handles = [layer.register_forward_pre_hook(reached) for layer in layers if layer not in done]
    count, total, squares = 0, 0.0, 0.0
    try:
        for x in chunks() if handles else ():
            try:
                model(x)
                return None
            except _Reached:
                layer, features = inputs.pop()
            values = features.double().transpose(0, 1).flatten(1)
            count += values.shape[1]
            total = total + values.sum(1)
            squares = squares + values.square().sum(1)
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        return None
    if count == 1:
        raise FlatlibError("batch norm cannot be recalibrated on a single value a channel: pass more examples")
    mean = total / count
    return layer, count, mean, (squares / count - mean.square()).clamp_min(0)
