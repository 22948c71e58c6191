"""Gradient of a batch's mean loss, in one pass or summed over parts."""

from collections.abc import Callable

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def batch_gradient(model: nn.Module, loss: Loss, batch: Batch, microbatch: int | None = None) -> None:
    """Leave the gradient of the mean loss over the batch in ``.grad``.

    Args:
        model: Network whose parameters get the gradient.
        loss: Mean loss of (outputs, targets).
        batch: Inputs and targets.
        microbatch: Examples per pass, for a batch whose graph does not fit; the gradient is the same up to rounding,
            except that batch norm in training mode has the statistics of each part.
    """
    model.zero_grad(set_to_none=True)
    x, y = batch
    if microbatch is None or microbatch >= len(x):
        loss(model(x), y).backward()
        return
    for part, targets in zip(x.split(microbatch), y.split(microbatch), strict=True):
        (loss(model(part), targets) * (len(part) / len(x))).backward()
