"""The gradient of a batch's mean loss, all at once or added up from parts."""

from collections.abc import Callable

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def batch_gradient(model: nn.Module, loss: Loss, batch: Batch, microbatch: int | None = None) -> None:
    """Leave the gradient of the mean loss over the batch in `.grad`.

    microbatch: examples per pass, for a batch whose graph does not fit; the same gradient up to rounding, except that
        batch norm in training mode has the statistics of each part.
    """
    model.zero_grad(set_to_none=True)
    x, y = batch
    if microbatch is None or microbatch >= len(x):
        # The loss has no name, so that its graph is gone at once: one from an earlier step may not live on while a step
        # is recorded (`flatlib.training.cuda_graph`).
        loss(model(x), y).backward()
        return
    for part, targets in zip(x.split(microbatch), y.split(microbatch), strict=True):
        (loss(model(part), targets) * (len(part) / len(x))).backward()
