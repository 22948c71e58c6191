"""Classification margins of the samples, in outputs or as distances to the decision boundary."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.examples import Data, Examples
from flatlib.curvature.operators.forward import forward_logits
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.errors import FlatlibError, NotDefined

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75)  # 10 %: inverse margin of Jiang et al. 2020; quartiles: Jiang et al. 2019
NORMALISATIONS = ("input", "none")  # margins as distances of inputs, or as differences of outputs


@dataclass(frozen=True)
class Margins:
    """One margin per sample, and quantiles over the samples.

    Attributes:
        values: (N,) float64, negative where the sample is misclassified.
        quantiles: Margins by the share of the samples that do not exceed them (linear interpolation).
        normalisation: "input", in units of the input, or "none", in units of the outputs.
    """

    values: Tensor
    quantiles: dict[float, float]
    normalisation: str


def margin(
    model: nn.Module,
    data: Data,
    *,
    normalise: str = "input",
    quantiles: tuple[float, ...] = QUANTILES,
    chunk_size: int = 1000,
) -> Margins:
    r"""Compute the distance of each sample from the decision boundary, to first order.

    $f_y(x) - f_j(x)$, $j$ the best other class, in evaluation mode; with "input" over $\|\nabla_x (f_y - f_j)\|_2$.
    The normalised margin is that of Elsayed et al. 2018 ("Large margin deep networks", equation 3) and Jiang et al.
    2019 ("Predicting the generalization gap", at the input layer). Rescaling the outputs or the layers does not change
    it; the margin of the outputs grows without bound as training goes on.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> margin(model, (torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([0, 1])), normalise="none").values.tolist()
    [1.0, -2.0]

    Args:
        model: Maps (N, ...) to outputs (N, C), one sample independent of the others; left as it was.
        data: (inputs, classes) or an iterable of such batches.
        normalise: "input", or "none" for the difference of the outputs.
        quantiles: Shares from 0 to 1.
        chunk_size: Samples per pass.

    Raises:
        FlatlibError: If the data are empty, the targets are not classes, the outputs are not (N, C) or not finite,
            there are fewer than two classes, or an option is out of range.
        NotDefined: If a difference of outputs does not depend on the input.
    """
    if normalise not in NORMALISATIONS:
        raise FlatlibError(f'normalise="{normalise}" is unknown; choose one of {", ".join(NORMALISATIONS)}')
    if not all(0 <= q <= 1 for q in quantiles):
        raise FlatlibError(f"quantiles={quantiles} are not shares between 0 and 1")
    if chunk_size < 1:
        raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of samples")
    x, y = Examples(data).require_pair()
    if normalise == "input" and not x.is_floating_point():
        raise FlatlibError(f'inputs of {x.dtype} have no distances: pass normalise="none"')
    if y.ndim != 1 or y.is_floating_point():
        raise FlatlibError(f"margins need one class per sample, got targets of {y.dtype} and shape {tuple(y.shape)}")
    frozen = FrozenModel(model)
    set_modes(frozen.module.requires_grad_(False), "eval")
    first = next(frozen.module.parameters())
    dtype = first.dtype if x.is_floating_point() else None
    parts = zip(x.split(chunk_size), y.to(first.device).long().split(chunk_size), strict=True)
    with frozen.measuring():
        values = torch.cat([_margins(frozen, part.to(first.device, dtype), c, normalise) for part, c in parts])
    found = torch.quantile(values, values.new_tensor(quantiles)).tolist()
    return Margins(values, dict(zip(quantiles, found, strict=True)), normalise)


def _margins(model: FrozenModel, x: Tensor, y: Tensor, normalise: str) -> Tensor:
    if normalise == "input":
        x = x.clone().requires_grad_()
    output = forward_logits(model, x.clone())  # which it may change
    if output.shape[1] < 2:
        raise FlatlibError("a margin needs more than one class")
    if not 0 <= int(y.min()) <= int(y.max()) < output.shape[1]:
        raise FlatlibError(f"classes from {int(y.min())} to {int(y.max())} for outputs of {output.shape[1]} classes")
    own = torch.nn.functional.one_hot(y, output.shape[1]).bool()
    other = output.detach().masked_fill(own, -torch.inf).argmax(1)
    rows = torch.arange(len(y), device=output.device)
    difference = output[rows, y] - output[rows, other]
    if normalise == "none":
        return difference.double()
    if not difference.requires_grad:
        raise NotDefined("the outputs do not depend on the inputs: no distance to a decision boundary")
    slope = torch.autograd.grad(difference.sum(), x)[0].flatten(1).double()
    length = torch.linalg.vector_norm(slope, dim=1)
    if not length.all():
        raise NotDefined(f"{int((length == 0).sum())} samples have outputs that do not depend on them: no distance")
    return difference.detach().double() / length
