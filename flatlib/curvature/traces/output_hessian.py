"""Factors of the output Hessian: the loss's Hessian in each example's own outputs, as a sum of weighted squares."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from flatlib.losses import cross_entropy, is_mean_of_examples, mse, squared_error

Factors = Iterator[tuple[Tensor, Tensor]]
MATRIX_MEMORY = 2**30  # bytes of the vectors (D, N, D): 13,000 examples of 100 classes, fewer of more classes


def output_hessian_factors(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Factors | None:
    r"""Factor the Hessian of the mean loss in the outputs of each example i as $\sum_k w_{ik} s_{ik} s_{ik}^\top$.

    Returns:
        Pairs of weights (N,) and vectors (N, D) for k = 1, 2, ..., in float64; None if the loss mixes examples (a
        softmax over the batch), needs more than ``MATRIX_MEMORY``, or cannot be evaluated in float64.
    """
    if 8 * len(output) * output[0].numel() ** 2 > MATRIX_MEMORY:
        return None
    output = output.detach().double()
    if loss in (mse, squared_error):
        return _squares_factors(output.flatten(1), 1 if loss is squared_error else 2 / output[0].numel())
    if loss is cross_entropy and output.ndim == 2 and is_mean_of_examples(loss, target):
        return _cross_entropy_factors(output, target)
    return _autograd_factors(loss, output, target.double() if target.is_floating_point() else target)


def _squares_factors(output: Tensor, curvature: float) -> Factors:
    n, d = output.shape
    weight = torch.full((n,), curvature / n, dtype=output.dtype, device=output.device)
    for row in torch.eye(d, dtype=output.dtype, device=output.device):
        yield weight, row.expand(n, d)


def _cross_entropy_factors(output: Tensor, target: Tensor) -> Factors:
    r"""Factor $\mathrm{diag}(p) - p p^\top = \sum_{k < C} d_k l_k l_k^\top$ (Tanabe and Sagae 1992).

    With $q_k = \sum_{j > k} p_j$, $d_k = p_k q_k / q_{k-1}$ and $l_k = e_k - \sum_{j > k} (p_j / q_k) e_j$ there is one
    square fewer than classes, and no difference of nearly equal numbers in a confident network.
    """
    p = output.softmax(1)
    total = target.double().sum(1) if target.is_floating_point() else torch.ones_like(p[:, 0])
    tails = p.flip(1).cumsum(1).flip(1)
    here, later = tails[:, :-1], tails[:, 1:]
    weights = torch.where(here > 0, p[:, :-1] * later / here, 0) * total[:, None] / len(p)
    classes = torch.arange(p.shape[1], device=p.device)
    below = (classes > classes[:-1, None])[:, None]
    vectors = torch.where(below & (later.T > 0)[:, :, None], -p / later.T[:, :, None], 0)
    vectors += (classes == classes[:-1, None])[:, None]
    return zip(weights.T, vectors, strict=True)


def _autograd_factors(loss: Callable, output: Tensor, target: Tensor) -> Factors | None:
    """Factor each example's matrix by its eigenvectors; it takes one derivative of the gradient per output."""
    n, d = len(output), output[0].numel()
    loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    flat = output.flatten(1).requires_grad_()
    try:
        slope = torch.autograd.grad(loss(flat.view_as(output), target), flat, create_graph=True)[0]
    except RuntimeError:
        return None
    if not slope.requires_grad:
        return iter(())

    def derivative(weights: Tensor) -> Tensor:
        return torch.autograd.grad(slope, flat, weights, retain_graph=True, materialize_grads=True)[0]

    matrices = torch.stack([derivative(row.expand(n, d)) for row in torch.eye(d).to(flat)], 1)
    probe = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=flat.dtype).to(flat)
    error = derivative(probe) - torch.einsum("nij,nj->ni", matrices, probe)
    if not error.abs().max() <= 1e-9 * matrices.abs().max():
        return None
    values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
    negligible = d * torch.finfo(values.dtype).eps * values.abs().amax(1, keepdim=True)
    needed = (values.abs() > negligible).any(0)
    return zip(values.mT[needed], vectors.permute(2, 0, 1)[needed], strict=True)
