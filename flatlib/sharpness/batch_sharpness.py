"""Curvature of the batches' losses along their own gradients, which SGD holds at the edge of stability."""

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.curvature.traces.hutchinson import Estimate
from flatlib.errors import FlatlibError, NotDefined, NotFinite
from flatlib.sharpness.perturbed_loss import Options

BATCHES = 100  # a standard error of a tenth of the spread over batches; not tuned
CHECKED = 5  # batches whose products are checked for symmetry, at one more product each


@torch.inference_mode(False)
def batch_sharpness(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    batch_size: int,
    batches: int = BATCHES,
    seed: int = 0,
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
        **options: ``batch_norm``, ``chunk_size``, ``parameters`` and ``dtype`` of `HessianOperator`; with
            ``batch_norm="train"`` every batch is normalized by its own statistics, as in training.

    Raises:
        NotDefined: If the gradient of a batch is zero.
        FlatlibError: If batch_size or batches is out of range, or `HessianOperator` refuses.
    """
    operator = HessianOperator(model, loss, data, **options)
    if not 1 <= batch_size <= operator.examples:
        raise FlatlibError(f"batch_size={batch_size} is not between 1 and the {operator.examples} examples")
    if batches < 2:
        raise FlatlibError(f"batches={batches} cannot give a standard error: at least 2 are needed")
    if batch_size == operator.examples:
        return Estimate(_curvature_along_gradient(operator, _probe(operator, seed)), 0.0, 2, True)
    generator, probe = torch.Generator().manual_seed(seed), _probe(operator, seed)
    values = torch.zeros(batches, dtype=torch.float64)
    for i in range(batches):
        batch = operator.subsampled(batch_size, generator)
        values[i] = _curvature_along_gradient(batch, probe if i < CHECKED else None)
    error = float(values.std()) / math.sqrt(batches)
    return Estimate(float(values.mean()), error, batches + min(CHECKED, batches), False)


def _probe(operator: HessianOperator, seed: int) -> Tensor:
    """Return the gradient of half the examples, by which the symmetry of a batch's products is checked."""
    half = operator.subsampled((operator.examples + 1) // 2, torch.Generator().manual_seed(seed))
    return half.gradient().double()


def _curvature_along_gradient(operator: HessianOperator, probe: Tensor | None) -> float:
    gradient = operator.gradient().double()
    if not gradient.any():
        raise NotDefined("the gradient of a batch is zero: there is no direction of its step")
    vectors = torch.stack([gradient, *([] if probe is None or not probe.any() else [probe])], 1)
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
    quadratic = vectors.T @ operator.matmat(vectors).double()
    if not torch.isfinite(quadratic).all():
        raise NotFinite("a Hessian-vector product is not finite: the curvature is not defined")
    require_symmetric(quadratic, operator.noise)
    return float(quadratic[0, 0])
