"""Per-example gradient norms of a layer without forming the gradients (Goodfellow 2015, arXiv:1510.01799)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormMap = Callable[[Tensor], Tensor]
LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)


def is_known(owner: nn.Module) -> bool:
    """Return whether ``gradient_squared_norms`` holds for a layer: one of ``LAYERS`` without an overridden method."""
    if any(map(callable, vars(owner).values())):
        return False
    if isinstance(owner, nn.Conv2d) and (owner.padding_mode != "zeros" or isinstance(owner.padding, str)):
        return False
    if isinstance(owner, nn.modules.batchnorm._BatchNorm) and (owner.training or owner.running_mean is None):
        return False
    return type(owner) in LAYERS


def gradient_squared_norms(
    owner: nn.Module, attributes: set[str], a: Tensor, passes: int
) -> Callable[[Tensor], dict[str, Tensor]]:
    r"""Return the map from a layer's $\delta$ (N, ...) to each example's squared gradient norm (N,), by attribute.

    ``is_known`` holds for the layer, whose input is a (N, ...); the cheapest way depends on the number of passes.
    """
    if isinstance(owner, nn.Linear) and a.ndim == 2:
        inputs = _squared(a)

        def both(delta: Tensor) -> dict[str, Tensor]:
            square = _squared(delta)
            return {"weight": inputs * square, "bias": square}

        return both
    maps: dict[str, NormMap] = {"bias": lambda delta: _squared(bias_gradients(owner, delta))}
    if "weight" in attributes:
        maps["weight"] = _weight_norm(owner, a, passes)
    return lambda delta: {attribute: maps[attribute](delta) for attribute in attributes}


def _weight_norm(owner: nn.Module, a: Tensor, passes: int) -> NormMap:
    if isinstance(owner, nn.Linear):
        features = a.reshape(len(a), -1, a.shape[-1]).mT
        squared_norm = _outer_product_norm(features, passes, owner.out_features)
        return lambda delta: squared_norm(delta.reshape(len(a), -1, owner.out_features).mT)
    if isinstance(owner, nn.Conv2d):
        patches = patches_by_group(owner, a)
        by_group = len(patches), -1, patches.shape[-1]
        squared_norm = _outer_product_norm(patches, passes, owner.out_channels // owner.groups)
        return lambda delta: squared_norm(delta.reshape(by_group)).view(len(a), owner.groups).sum(1)
    normal = normalized(owner, a)
    return lambda delta: _squared(sum_positions(delta * normal))


def bias_gradients(owner: nn.Module, delta: Tensor) -> Tensor:
    """Return each example's gradient in the bias, (N, channels)."""
    return delta.flatten(1, -2).sum(1) if isinstance(owner, nn.Linear) and delta.ndim > 2 else sum_positions(delta)


def patches_by_group(owner: nn.Conv2d, a: Tensor) -> Tensor:
    """Unfold a convolution's input to (N groups, inputs, positions), on which it is a linear map, group by group."""
    assert not isinstance(owner.padding, str)  # by ``is_known``
    patches = F.unfold(a, owner.kernel_size, owner.dilation, owner.padding, owner.stride)
    return patches.reshape(len(a) * owner.groups, -1, patches.shape[-1])


def normalized(norm: Any, a: Tensor) -> Tensor:
    """Return a batch norm's input after normalization with its running statistics."""
    shape = (1, -1) + (1,) * (a.ndim - 2)
    return (a - norm.running_mean.view(shape)) * torch.rsqrt(norm.running_var + norm.eps).view(shape)


def sum_positions(delta: Tensor) -> Tensor:
    """Sum (N, channels, ...) to (N, channels)."""
    return delta.flatten(2).sum(2) if delta.ndim > 2 else delta


def _squared(gradients: Tensor) -> Tensor:
    """Return each example's squared norm; squaring the entries instead would copy them."""
    return torch.linalg.vector_norm(gradients.flatten(1), dim=1).square()


def _outer_product_norm(a: Tensor, passes: int, outputs: int) -> NormMap:
    r"""Map $\delta$ to $\|\sum_p \delta_p a_p^\top\|^2$, a (N, in, P), by two norms, two Gram matrices or the sum."""
    inputs, positions = a.shape[1:]
    if positions == 1:
        norms = _squared(a)
        return lambda delta: norms * _squared(delta)
    if positions * (inputs + passes * outputs) < passes * inputs * outputs:
        gram = a.mT @ a
        return lambda delta: (gram * (delta.mT @ delta)).sum((1, 2))
    return lambda delta: _squared(delta @ a.mT)


def patch_size(owner: nn.Module, a: Tensor) -> int:
    """Return how many numbers one example's unfolded input has."""
    return (math.prod(owner.kernel_size) if isinstance(owner, nn.Conv2d) else 1) * a[0].numel()
