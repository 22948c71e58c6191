"""Sharpness-aware minimization (SAM, Foret et al. 2021), and the plain gradient of a batch that it builds on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flatlib.losses import Loss

Batch = tuple[Tensor, Tensor]
Penalty = Callable[[Tensor, Tensor], Tensor]


def batch_gradient(
    model: nn.Module, loss: Loss, batch: Batch, microbatch: int | None = None, penalty: Penalty | None = None
) -> None:
    """Leave the gradient of the mean loss over the batch, and of the penalty, in ``.grad``.

    Args:
        model: Network whose parameters get the gradient.
        loss: Mean loss of (outputs, targets).
        batch: Inputs and targets.
        microbatch: Examples per pass, for a batch whose graph does not fit; the gradient is the same up to rounding,
            except that batch norm in training mode has the statistics of each part.
        penalty: Mean over examples of a function of inputs and outputs, which is added to the loss.
    """
    model.zero_grad(set_to_none=True)
    x, y = batch
    if microbatch is None or microbatch >= len(x):
        _objective(model, loss, batch, penalty).backward()
        return
    for part, targets in zip(x.split(microbatch), y.split(microbatch), strict=True):
        (_objective(model, loss, (part, targets), penalty) * (len(part) / len(x))).backward()


def _objective(model: nn.Module, loss: Loss, batch: Batch, penalty: Penalty | None) -> Tensor:
    """Return the loss of a batch, and its penalty."""
    x, y = batch
    if penalty is None:
        return loss(model(x), y)
    x = x.detach().requires_grad_()
    output = model(x)
    return loss(output, y) + penalty(x, output)


def sam_gradient(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    rho: float,
    *,
    sam_batch: int | None = None,
    microbatch: int | None = None,
) -> None:
    r"""Leave SAM's gradient in ``.grad``: $\nabla L(w + \rho\, g / \|g\|)$ with $g = \nabla L(w)$, at the same w.

    The perturbation is that of the whole batch, as in Kaur et al. 2022; with `sam_batch` = m it is m-SAM (Foret et al.
    2021, section 4.1): the mean over groups of m examples of the gradient at each group's own perturbed point.

    Batch norm's running statistics take the unperturbed weights only, once a step. A gradient of length zero, at a
    minimum, gives no perturbation.

    Args:
        model: Network whose parameters get the gradient.
        loss: Mean loss of (outputs, targets).
        batch: Inputs and targets.
        rho: Length of the perturbation, in units of the weights.
        sam_batch: Examples that share a perturbation; None for the whole batch.
        microbatch: Examples per pass, see `batch_gradient`.
    """
    x, y = batch
    if sam_batch is None or sam_batch >= len(x):
        _one_group(model, loss, batch, rho, microbatch)
        return
    total = [torch.zeros_like(p) for p in model.parameters()]
    for group in zip(x.split(sam_batch), y.split(sam_batch), strict=True):
        _one_group(model, loss, group, rho, microbatch)
        for t, p in zip(total, model.parameters(), strict=True):
            if p.grad is not None:
                t.add_(len(group[0]) / len(x) * p.grad)
    for t, p in zip(total, model.parameters(), strict=True):
        p.grad = t


def _one_group(model: nn.Module, loss: Loss, batch: Batch, rho: float, microbatch: int | None) -> None:
    """Leave the gradient at the perturbed weights of one group."""
    batch_gradient(model, loss, batch, microbatch)
    moved = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in moved if p.grad is not None]
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    scale = torch.where(length > 0, rho / length, torch.zeros_like(length))
    before = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for p, g in zip(moved, gradients, strict=True):
            p.add_(scale * g)
    try:
        with _statistics_kept(model):
            batch_gradient(model, loss, batch, microbatch)
    finally:
        with torch.no_grad():
            for p, old in zip(moved, before, strict=True):
                p.copy_(old)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Restore batch norm's running statistics afterwards; it still normalizes by the batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
