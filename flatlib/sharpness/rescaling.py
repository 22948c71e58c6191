"""Rescalings of a network's layers that leave its function as it is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.curvature.operators.nested import leaves, mapped
from flatlib.errors import NotDefined, NotFinite

BATCH_NORM = nn.modules.batchnorm._BatchNorm  # the base class of all of them, which has no public name
SAMPLES = 100  # samples on which a rescaled network is compared with the original one
UNCHANGED = 1e-8  # largest change of an output over the largest output that counts as rounding in float64; tuned


@dataclass(frozen=True)
class Layer:
    """Names of one link of the chain: a module and its tensors."""

    name: str  # "" if the module is the model itself
    weight: str
    bias: str | None  # None without one
    running_mean: str  # buffer that batch norm, if it is one, subtracts from its input


def chain_of_layers(model: nn.Module) -> list[Layer]:
    """Return all modules with parameters as registered; `require_homogeneous` checks the order of the computation.

    Raises:
        NotDefined: If a parameter is not the weight or bias of one module alone: there is no chain then.
    """
    layers: list[Layer] = []
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        odd = set(own) - {"weight", "bias"}
        if odd or (own and "weight" not in own):
            which = f"{name}.{(sorted(odd) or ['bias'])[0]}".lstrip(".")
            raise NotDefined(f'the parameter "{which}" is not the weight of a layer, or its bias: no rescaling of it')
        if seen & set(own.values()):
            raise NotDefined(f'"{name}" shares a parameter with an earlier layer: they cannot be rescaled apart')
        seen |= set(own.values())
        if own:
            weight, bias, mean = (f"{name}.{tensor}".lstrip(".") for tensor in ("weight", "bias", "running_mean"))
            layers.append(Layer(name, weight, bias if "bias" in own else None, mean))
    return layers


@torch.no_grad()
def rescale(model: nn.Module, layers: list[Layer], alphas: np.ndarray) -> None:
    r"""Multiply, in place, layer l's weight by $\alpha_l$ and its bias by $s_l = \alpha_1 \cdots \alpha_l$.

    If the network is positively homogeneous between its layers, the output of layer l is then $s_l$ times what it was.
    Batch norm in evaluation mode, $y = \gamma (x - \mu) / \sigma + \beta$, is such a layer with weight $\gamma$ and
    bias $\beta$ when the running mean $\mu$, a constant in the units of its input, takes the input's scale $s_{l-1}$.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    scales = np.cumprod(alphas)
    for i, layer in enumerate(layers):
        parameters[layer.weight].mul_(float(alphas[i]))
        if layer.bias is not None:
            parameters[layer.bias].mul_(float(scales[i]))
        mean = buffers.get(layer.running_mean)
        if mean is not None and i > 0:
            mean.mul_(float(scales[i - 1]))


def _outputs(frozen: FrozenModel, inputs: Any) -> Tensor:
    """Return all outputs in one row."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(frozen.device, frozen.dtype if tensor.is_floating_point() else None)

    with frozen.measuring():
        output = without_gradients(lambda: frozen(mapped(inputs, cast)))
    return torch.cat([leaf.flatten() for leaf in leaves(output) if leaf.is_floating_point()])


def require_homogeneous(model: nn.Module, layers: list[Layer], inputs: Any, *, seed: int = 0) -> None:
    """Check that a random rescaling with product one leaves the outputs as they are, in float64.

    The copy's biases are moved a little, as zero biases would hide a chain in the wrong order. tanh, a shortcut, a
    branch, a group or layer norm each change the outputs.

    Raises:
        NotDefined: If the outputs change.
        NotFinite: If the outputs are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    original = FrozenModel(model, dtype=torch.float64)
    set_modes(original.module, "eval")
    with torch.no_grad():
        for name, p in original.module.named_parameters():
            if name.rpartition(".")[2] == "bias":
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p))
    rescaled = FrozenModel(original)
    logs = torch.rand(len(layers), generator=generator, dtype=torch.float64).numpy()
    rescale(rescaled.module, layers, np.exp(logs - logs.mean()))
    before, after = (_outputs(frozen, inputs) for frozen in (original, rescaled))
    if not torch.isfinite(before).all():
        raise NotFinite("the outputs are not finite: there is nothing to rescale")
    change = float((after - before).abs().max() / before.abs().max().clamp_min(torch.finfo(before.dtype).tiny))
    if not change <= UNCHANGED:
        raise NotDefined(
            f"rescaling the layers with product one changes the outputs by {change:.2g} of the largest: defined only "
            "for a chain of layers with positively homogeneous functions between them (ReLU, pooling; no shortcut)"
        )
