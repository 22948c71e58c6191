"""Squared lengths of single examples' gradients in a layer's weight or bias, without forming the gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Length = Callable[[Tensor], Tensor]
Lengths = Callable[[Tensor], dict[str, Tensor]]
LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


def is_known(owner: nn.Module) -> bool:
    """Whether `gradient_squared_norms` holds for this layer: of these very classes, zero padding, running statistics.

    A method of the instance's own, such as another `forward`, makes it a layer of another kind.
    """
    if any(map(callable, vars(owner).values())):
        return False
    if isinstance(owner, nn.Conv2d) and (owner.padding_mode != "zeros" or isinstance(owner.padding, str)):
        return False
    if isinstance(owner, nn.modules.batchnorm._BatchNorm) and (owner.training or owner.running_mean is None):
        return False
    return type(owner) in LAYERS


def gradient_squared_norms(owner: nn.Module, wanted: set[str], a: Tensor, passes: int) -> Lengths:
    r"""The map from a layer's $\delta$ (N, ...) to each example's squared gradient (N,), by "weight" and "bias".

    a: (N, ...), what went into the layer. passes: how many $\delta$ will be mapped, to choose the cheapest way.
    """
    if isinstance(owner, nn.Linear) and a.ndim == 2:
        inputs = _squared(a)

        def both(delta: Tensor) -> dict[str, Tensor]:
            square = _squared(delta)
            return {"weight": inputs * square, "bias": square}

        return both
    maps = {"weight": _weight_length(owner, a, passes) if "weight" in wanted else None, "bias": _bias_length(owner)}
    return lambda delta: {attribute: maps[attribute](delta) for attribute in wanted}


def _bias_length(owner: nn.Module) -> Length:
    if isinstance(owner, nn.Linear):
        return lambda delta: _squared(delta.flatten(1, -2).sum(1))
    return lambda delta: _squared(_over_positions(delta))


def _weight_length(owner: nn.Module, a: Tensor, passes: int) -> Length:
    if isinstance(owner, nn.Linear):
        features = a.reshape(len(a), -1, a.shape[-1]).mT
        length = _outer_length(features, passes, owner.out_features)
        return lambda delta: length(delta.reshape(len(a), -1, owner.out_features).mT)
    if isinstance(owner, nn.Conv2d):
        return _convolution_length(owner, a, passes)
    shape = (1, -1) + (1,) * (a.ndim - 2)
    normal = (a - owner.running_mean.view(shape)) * torch.rsqrt(owner.running_var + owner.eps).view(shape)
    return lambda delta: _squared(_over_positions(delta * normal))


def _over_positions(delta: Tensor) -> Tensor:
    """(N, channels, ...) summed to (N, channels)."""
    return delta.flatten(2).sum(2) if delta.ndim > 2 else delta


def _squared(gradients: Tensor) -> Tensor:
    """Each example's squared length; a norm takes no memory, a square a copy."""
    return torch.linalg.vector_norm(gradients.flatten(1), dim=1).square()


def _outer_length(a: Tensor, passes: int, outputs: int) -> Length:
    r"""$\|\sum_p \delta_p a_p^\top\|^2$ for a (N, in, P), by the cheaper of three ways: the product of two lengths, the
    positions' Gram matrices, or the sum itself."""
    inputs, positions = a.shape[1:]
    if positions == 1:
        lengths = _squared(a)
        return lambda delta: lengths * _squared(delta)
    if positions * (inputs + passes * outputs) < passes * inputs * outputs:
        gram = a.mT @ a

        def by_gram(delta: Tensor) -> Tensor:
            return (gram * (delta.mT @ delta)).sum((1, 2))

        return by_gram
    return lambda delta: _squared(delta @ a.mT)


def _convolution_length(owner: nn.Conv2d, a: Tensor, passes: int) -> Length:
    """A convolution is a linear map of its unfolded patches, group by group."""
    groups = owner.groups
    patches = F.unfold(a, owner.kernel_size, owner.dilation, owner.padding, owner.stride)
    patches = patches.reshape(len(a) * groups, -1, patches.shape[-1])
    length = _outer_length(patches, passes, owner.out_channels // groups)
    return lambda delta: length(delta.reshape(len(a) * groups, -1, patches.shape[-1])).view(len(a), groups).sum(1)


def patch_size(owner: nn.Module, a: Tensor) -> int:
    """Numbers that one example's unfolded input takes."""
    area = owner.kernel_size[0] * owner.kernel_size[1] if isinstance(owner, nn.Conv2d) else 1
    return area * a[0].numel()
