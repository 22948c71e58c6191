"""Spectral norms of the input-output Jacobian, the flatness in input space of MacDonald et al. 2023."""

import torch
from torch import Tensor, nn

from flatlib.curvature.frozen import frozen_copy, logits, measuring, set_modes
from flatlib.errors import FlatlibError


def jacobian_norm(model: nn.Module, x: Tensor, *, softmax: bool = False, chunk_size: int = 100) -> Tensor:
    r"""$\|\partial f(x_i) / \partial x_i\|_2$ for every sample, exactly, in evaluation mode.

    $C$ backward passes give all rows $J_c$ of a whole chunk; the norm is the root of the largest eigenvalue of the
    $C \times C$ Gram matrix $J J^\top$. The softmaxed model's Jacobian is $(\mathrm{diag}(p) - p p^\top) J$, of the
    same rows. MacDonald et al. 2023 take the softmaxed model and the maximum over training samples.

    Parameters
    ----------
    model: maps (N, ...) to (N, C), one sample independent of the others; it is left as it was (see `frozen_copy`).
    x: (N, ...) inputs.
    softmax: measure the probabilities instead of the outputs.
    chunk_size: samples per pass; 100 was faster than 1000 on a CPU.

    Returns
    -------
    (N,) float64, in outputs per unit of input, on the model's device.

    Raises
    ------
    FlatlibError: for empty or integer x, outputs that are not (N, C) or not finite, a chunk_size below 1.
    """
    if x.ndim == 0 or len(x) == 0 or not x.is_floating_point():
        raise FlatlibError(f"a Jacobian needs floating-point inputs (N, ...), got {x.dtype} of shape {tuple(x.shape)}")
    if chunk_size < 1:
        raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of samples")
    frozen = frozen_copy(model).requires_grad_(False)
    set_modes(frozen, "eval")
    first = next(frozen.parameters())
    with measuring(first.device):
        return torch.cat([_chunk_norms(frozen, part.to(first), softmax) for part in x.detach().split(chunk_size)])


def _chunk_norms(model: nn.Module, x: Tensor, softmax: bool) -> Tensor:
    output, rows = _rows(model, x)
    if softmax:
        rows = _softmax_jacobian(output) @ rows
    gram = rows @ rows.mT
    return torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()


def _rows(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (N, C) and Jacobians (N, C, d), both float64."""
    x = x.clone().requires_grad_()
    output = logits(model, x)
    if not output.requires_grad:
        return output.double(), torch.zeros(*output.shape, x[0].numel(), dtype=torch.float64, device=x.device)
    rows = [
        torch.autograd.grad(column.sum(), x, retain_graph=True, materialize_grads=True)[0].flatten(1)
        for column in output.unbind(1)
    ]
    return output.detach().double(), torch.stack(rows, 1).double()


def _softmax_jacobian(output: Tensor) -> Tensor:
    """diag(p) - p p^T, (N, C, C); 1 - p_c is summed from the others, as p_c rounds to 1 in a confident network."""
    p = output.softmax(1)
    others = 1 - torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return torch.diag_embed(p * (p @ others)) - p.unsqueeze(2) * p.unsqueeze(1) * others
