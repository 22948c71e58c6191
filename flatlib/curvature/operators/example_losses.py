"""Checks that every example has a loss and outputs of its own, which do not depend on the other examples."""

from collections.abc import Callable

import torch
from torch import Tensor

from flatlib.curvature.operators.empirical_risk import LOSS_TOLERANCE
from flatlib.curvature.traces.output_hessian import is_mean_of_examples
from flatlib.errors import NotDefined, explained


def require_own_losses(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, slope: Tensor) -> None:
    """Raise ``NotDefined`` unless the loss is the plain mean of the losses of all examples, each taken alone.

    Args:
        loss: Function of outputs and targets.
        output: Outputs (N, ...).
        target: Targets (N, ...).
        slope: Gradient of the loss in the outputs, (N, ...).
    """
    if is_mean_of_examples(loss, target):
        return
    output = output.detach().requires_grad_()
    with explained("the loss fails on one example"):
        own = [loss(one, its) for one, its in zip(output.split(1), target.split(1), strict=True)]
        alone = torch.autograd.grad(torch.stack(own).mean(), output, materialize_grads=True)[0]
    if not (alone - slope).norm() <= LOSS_TOLERANCE * slope.norm():
        raise NotDefined(
            "the loss is not the mean of each example's own (it weights, ignores or mixes some?): the gradient of one "
            "example is not defined"
        )


def require_own_outputs(output: Tensor, forward: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raise ``NotDefined`` if the second half of the examples has other outputs alone than with the first."""
    half = x[(len(x) + 1) // 2 :]
    if len(half) == 0:
        return
    together = output[-len(half) :].detach()
    with torch.no_grad():
        alone = forward(half)
    if not (alone - together).norm() <= LOSS_TOLERANCE * together.norm():
        raise NotDefined(
            "the outputs of one example depend on the others (batch norm in train mode?): the gradient of one example "
            "is not defined"
        )
