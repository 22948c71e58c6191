"""Checks that every example has a loss and outputs of its own, which do not depend on the other examples."""

from typing import Any

import torch
from torch import Tensor

from flatlib.curvature.operators.empirical_risk import EmpiricalRisk
from flatlib.curvature.operators.examples import Chunk
from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.loss_checks import TOLERANCE, distance, norm, require_independent, slopes
from flatlib.curvature.operators.nested import leaves, mapped
from flatlib.errors import FlatlibError, NotDefined
from flatlib.losses import is_mean_of_examples

ALONE = "the gradient of one example is not defined"


def require_own_losses(risk: EmpiricalRisk, output: Any, targets: Any) -> None:
    """Raise ``NotDefined`` unless the loss is the plain mean of the losses of all examples, each taken alone.

    Args:
        risk: Has the loss, checked.
        output: Outputs of a chunk, with one entry an example in every tensor.
        targets: Its targets.
    """
    if isinstance(targets, Tensor) and is_mean_of_examples(risk.loss, targets):
        return
    together = slopes(risk.checked_loss, output, targets)
    count = len(next(leaves(output)))

    def alone(i: int) -> list[Tensor]:
        one, its = (mapped(nest, lambda t: t[i : i + 1]) for nest in (output, targets))
        return slopes(risk.checked_loss, one, its)

    try:
        own = [torch.cat(rows) / count for rows in zip(*map(alone, range(count)), strict=True)]
    except FlatlibError as error:
        raise NotDefined(f"the loss of one example is not defined: {error}") from error
    if not distance(own, together) <= TOLERANCE * norm(together):
        raise NotDefined(
            f"the loss is not the mean of each example's own (it weights, ignores or mixes some?): {ALONE}"
        )


def require_own_outputs(risk: EmpiricalRisk, chunk: Chunk) -> Any:
    """Return a chunk's outputs, or raise ``NotDefined`` if the second half of it has other outputs alone."""
    output = without_gradients(lambda: risk.output(chunk.inputs))
    if not chunk.divisible or not all(leaf.ndim and len(leaf) == chunk.size for leaf in leaves(output)):
        raise NotDefined(f"the outputs have not one entry an example: {ALONE}")
    half = chunk.at(slice((chunk.size + 1) // 2, chunk.size)) if chunk.size > 1 else chunk
    try:
        require_independent(output, without_gradients(lambda: risk.output(half.inputs)), half.size)
    except FlatlibError as error:
        raise NotDefined(
            f"the outputs of one example depend on the others (batch norm in train mode?): {ALONE}"
        ) from error
    return output
