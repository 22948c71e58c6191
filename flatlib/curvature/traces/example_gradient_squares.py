"""Sums over examples of a layer's squared gradient entries, as for the diagonal of a Gauss-Newton matrix.

The curvature literature calls it DiagGGN (Dangel et al. 2020, "BackPACK", arXiv:1912.10985).
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from flatlib.curvature.traces.example_gradient_norms import (
    bias_gradients,
    normalized,
    patch_size,
    patches_by_group,
    sum_positions,
)


def gradient_squares(
    owner: nn.Module, attributes: set[str], a: Tensor, passes: int
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    r"""Return the map from a layer's $\delta$ (N, ...) and weights w (N,) to $\sum_i w_i g_i^2$, by attribute, float64.

    $g_i$ is the gradient of example i, of the shape of the parameter. ``is_known`` holds for the layer, whose input is
    a (N, ...). Where a weight's gradient is one outer product, squares are multiplied instead of being summed one by
    one.
    """
    if isinstance(owner, nn.Linear) and a.ndim == 2:
        squares = a.square()

        def outer(delta: Tensor, weight: Tensor) -> dict[str, Tensor]:
            weighted = delta.square() * weight.to(delta)[:, None]
            return {"weight": (weighted.T @ squares).double(), "bias": weighted.sum(0).double()}

        return outer

    def summed(delta: Tensor, weight: Tensor) -> dict[str, Tensor]:
        gradients = dict(_gradients(owner, attributes, a, delta))
        return {
            name: (weight.to(g) @ g.square().flatten(1)).view(g.shape[1:]).double() for name, g in gradients.items()
        }

    return summed


def _gradients(owner: nn.Module, attributes: set[str], a: Tensor, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield each example's gradients, (N, ...), by attribute."""
    if "bias" in attributes:
        yield "bias", bias_gradients(owner, delta)
    if "weight" not in attributes:
        return
    if isinstance(owner, nn.Linear):
        yield "weight", delta.flatten(1, -2).mT @ a.flatten(1, -2)
    elif isinstance(owner, nn.Conv2d):
        patches = patches_by_group(owner, a)
        by_group = delta.reshape(len(patches), -1, patches.shape[-1]) @ patches.mT
        yield "weight", by_group.view(len(a), *owner.weight.shape)
    else:  # batch norm, the last of ``LAYERS``
        yield "weight", sum_positions(delta * normalized(owner, a))


def gradient_size(owner: nn.Module, a: Tensor) -> int:
    """Return how many numbers one example's unfolded input and, where it is formed, its gradient have."""
    is_outer = isinstance(owner, nn.Linear) and a.ndim == 2
    return patch_size(owner, a) + (0 if is_outer else sum(p.numel() for p in owner.parameters()))
