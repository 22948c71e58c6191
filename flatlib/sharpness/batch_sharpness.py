"""Curvature of the batches' losses along their own gradients, which SGD holds at the edge of stability."""

import math
from typing import Unpack

import torch
from torch import nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.traces.hutchinson import Estimate
from flatlib.errors import FlatlibError, NotDefined, NotFinite
from flatlib.sharpness.perturbed_loss import Options

BATCHES = 100  # a standard error of a tenth of the spread over batches; not tuned


@torch.inference_mode(False)
def batch_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    batch_size: int,
    batches: int = BATCHES,
    seed: int = 0,
    operator: HessianOperator | None = None,
    **options: Unpack[Options],
) -> Estimate:
    r"""Estimate batch sharpness, $\mathbb{E}_B\big[g_B^\top H_B\, g_B / \|g_B\|^2\big]$ over random batches B.

    $g_B$ and $H_B$ are gradient and Hessian of the batch's own loss. With SGD and a small batch it is this number, not
    the largest eigenvalue of the whole Hessian, that rises to $2 / \eta$ and stays there: the edge of stochastic
    stability (Andreyev and Beneventano 2024, arXiv:2412.20553). As in their code, the examples of a batch are drawn
    without replacement. Their number of batches depends on the values seen; here it is fixed beforehand, as stopping
    early biases the mean. For all examples as one batch it is the curvature along the gradient, and exact.

    >>> H = torch.diag(torch.tensor([3.0, 1.0]))  # every batch has the loss w'Hw / 2: along the gradient at (1, 0), 3
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
    >>> data = H.sqrt().repeat(5, 1), torch.zeros(10, 1)
    >>> round(batch_sharpness(model, "mse", data, batch_size=10).value, 5)
    3.0

    Args:
        model: Network, left as it was.
        loss: A name or a callable, as for `HessianOperator`.
        data: (inputs, targets) or an iterable of batches, from which the random ones are drawn.
        batch_size: Examples in a random batch, those of the training.
        batches: Random batches, at least 2.
        seed: Seed of the batches.
        operator: The Hessian of the loss over the data, if it exists already: its derivatives are not checked again.
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`; with
            ``batch_norm="train"`` every batch is normalized by its own statistics, as in training.

    Raises:
        NotDefined: If the gradient of a batch is zero.
        FlatlibError: If batch_size or batches is out of range, or `HessianOperator` refuses.
    """
    operator = operator or HessianOperator(model, loss, data, **options)
    if not 1 <= batch_size <= operator.examples:
        raise FlatlibError(f"batch_size={batch_size} is not between 1 and the {operator.examples} examples")
    if batches < 2:
        raise FlatlibError(f"batches={batches} cannot give a standard error: at least 2 are needed")
    operator.check_derivatives(products=True)  # once, not for every batch
    if batch_size == operator.examples:
        return Estimate(_curvature_along_gradient(operator), 0.0, 1, True)
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(
        [_curvature_along_gradient(_batch(operator, batch_size, generator)) for _ in range(batches)],
        dtype=torch.float64,
    )
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(batches), batches, False)


def _batch(operator: HessianOperator, size: int, generator: torch.Generator) -> HessianOperator:
    batch = operator.subsampled(size, generator)
    if batch is None:
        raise NotDefined("the examples cannot be drawn one by one: they come in batches of different shapes")
    return batch


def _curvature_along_gradient(operator: HessianOperator) -> float:
    gradient = operator.gradient()
    length = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    if length == 0:
        raise NotDefined("the gradient of a batch is zero: there is no direction of its step")
    direction = gradient / length
    curvature = float(torch.dot(direction, operator.matvec(direction)))
    if not math.isfinite(curvature):
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    return curvature
