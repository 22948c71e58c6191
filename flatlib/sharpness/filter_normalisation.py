"""Random directions in the space of the weights, each filter scaled to the norm of the network's (Li et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import select_parameters
from flatlib.curvature.operators.frozen_model import FrozenModel
from flatlib.errors import FlatlibError


@torch.inference_mode(False)
@torch.no_grad()
def filter_normalised_directions(
    model: nn.Module, k: int = 2, *, seed: int = 0, parameters: str | Sequence[str] | None = None
) -> Tensor:
    r"""Draw Gaussian directions and scale each filter, $d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \|w_{ij}\|$.

    A step along them is relative to the size of each filter, so that networks whose filters differ in scale alone, as
    batch norm permits, have the same landscape (Li et al. 2018, "Visualizing the loss landscape of neural nets",
    section 4). As in the authors' code (github.com/tomgoldstein/loss-landscape, ``--xnorm filter --xignore biasbn``),
    a filter is a slice of a weight along its first dimension, in a linear layer the weights of one neuron, and
    parameters of fewer than two dimensions, biases and those of batch norm, do not move. The directions are neither
    unit vectors nor orthogonal: pass ``unit="direction"`` to `loss_along` and `loss_in_plane`. The authors draw them
    to a radius of 1.

    >>> model = nn.Linear(4, 3)
    >>> direction = filter_normalised_directions(model, 1)[:12].view(3, 4)
    >>> torch.allclose(direction.norm(dim=1), model.weight.norm(dim=1))
    True

    Args:
        model: Network, left as it was.
        k: Number of directions.
        seed: Seed of the Gaussian numbers, which are drawn in float64 on the CPU.
        parameters: Names or shell patterns of the block to move, as for `HessianOperator`.

    Returns:
        (n, k), flat in the order of the operator's parameters, in the model's dtype and on its device.

    Raises:
        FlatlibError: If k is below 1, or no filter has a norm that is finite and not zero.
    """
    if k < 1:
        raise FlatlibError(f"k={k} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    chosen = select_parameters(FrozenModel(model).module, parameters).values()
    directions = torch.stack([torch.cat([_direction(p, generator) for p in chosen]) for _ in range(k)], dim=1)
    if not (torch.isfinite(directions).all() and directions.any()):
        raise FlatlibError(f"{type(model).__name__} has no filter of finite and positive norm to scale a direction to")
    return directions


def _direction(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return the part of a direction that belongs to one parameter, flat."""
    if weights.ndim < 2:
        return torch.zeros_like(weights).flatten()
    drawn = torch.randn(weights.shape, generator=generator, dtype=torch.float64).flatten(1)
    norms = torch.linalg.vector_norm(weights.detach().flatten(1).double(), dim=1, keepdim=True)
    return (nn.functional.normalize(drawn, dim=1).to(weights.device) * norms).to(weights.dtype).flatten()
