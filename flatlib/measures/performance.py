"""Evaluate loss and accuracy of a network on the training and test images."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.curvature import HessianOperator
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Examples
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.device import full_precision
from flatlib.errors import FlatlibError
from flatlib.losses import (
    SmoothedCrossEntropy,
    SmoothedSquaredError,
    batch_softmax_cross_entropy,
    cross_entropy,
    inputs_in_a_batch,
    resolve_loss,
    squared_error,
)
from flatlib.measures.checkpoint import Checkpoint, Split
from flatlib.sharpness.perturbed_loss import PerturbedLoss

Numbers = dict[str, float | None]  # measures by name; None where a measure is not defined for the network
OF_CLASSES = (cross_entropy, squared_error, batch_softmax_cross_entropy)  # the last is given as the plain cross-entropy
SMOOTHED, SQUARED = (SmoothedCrossEntropy, SmoothedSquaredError), ("squared", squared_error)
CHUNK = 1000  # images per forward pass when a whole split is evaluated


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = "cross_entropy") -> tuple[float, float]:
    """Compute the mean loss (summed in float64) and the accuracy (a share) in evaluation mode.

    The loss is the squared error where that is the training loss, otherwise the cross-entropy, in nats.

    Args:
        model: Maps (N, ...) to logits (N, C); its mode is restored.
        x: Inputs (N, ...), on any device.
        y: Classes (N,), on any device.
        loss: The training loss; if it smooths the labels, the same smoothing applies here.

    >>> evaluate(nn.Identity(), torch.eye(2), torch.tensor([0, 1]))[1]
    1.0
    """
    smoothed = loss if isinstance(loss, SmoothedCrossEntropy) else None
    smoothing = smoothed.smoothing if smoothed else 0.0
    squared = loss if isinstance(loss, SmoothedSquaredError) else squared_error if loss in SQUARED else None
    training = model.training
    model.eval()
    place = next(model.parameters(), x).device
    total = torch.zeros((), dtype=torch.float64, device=place)
    correct = torch.zeros((), dtype=torch.int64, device=place)
    with full_precision():
        for images, labels in zip(x.split(CHUNK), y.to(place).split(CHUNK), strict=True):
            logits = model(images.to(place, copy=True))  # which it may change
            outputs = logits.double()
            if squared:
                total += squared(outputs, labels) * len(labels)
            else:
                total += nn.functional.cross_entropy(outputs, labels, reduction="sum", label_smoothing=smoothing)
            correct += (logits.argmax(dim=1) == labels).sum()
    model.train(training)
    mean = float(total) / len(x)
    if smoothed:
        mean -= float(smoothed.entropy(y, logits.shape[1]))
    return mean, int(correct) / len(x)


def performance(checkpoint: Checkpoint) -> Numbers:
    """Return loss and accuracy on all splits; `generalization_gap` = train minus test accuracy (Bejan et al. 2022),
    `loss_gap` = |train loss - test loss| (MacDonald et al. 2023, section 6)."""
    train, test = _on_split(checkpoint, "train"), _on_split(checkpoint, "test")
    gaps = {
        "generalization_gap": train["train_accuracy"] - test["test_accuracy"],
        "loss_gap": abs(train["train_loss"] - test["test_loss"]),
    }
    validation = {} if checkpoint.validation is None else _on_split(checkpoint, "validation")
    return train | test | gaps | validation


def train_loss(checkpoint: Checkpoint) -> Numbers:
    """Return loss and accuracy on the training images alone: cheap enough for every point of a trajectory."""
    return _on_split(checkpoint, "train")


def plain_cross_entropy(checkpoint: Checkpoint) -> Numbers:
    """Return the cross-entropy on all splits without label smoothing, whatever the training loss is, and its gap."""
    plain = replace(checkpoint, loss="cross_entropy")
    names = [name for name in ("train", "test", "validation") if name != "validation" or checkpoint.validation]
    losses = {f"{name}_cross_entropy": _on_split(plain, name)[f"{name}_loss"] for name in names}
    return losses | {"cross_entropy_gap": abs(losses["train_cross_entropy"] - losses["test_cross_entropy"])}


def _on_split(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    split: Split | None = getattr(checkpoint, name)
    if split is None:
        raise FlatlibError(f"this measure needs the {name} images; the checkpoint was made without them")
    loss = resolve_loss(checkpoint.loss)
    examples = Examples.read(split, inputs_in_a_batch(loss))
    frozen = FrozenModel(checkpoint.model, loss)
    set_modes(frozen.module, "eval")
    with frozen.measuring(), torch.no_grad():
        if examples.pair is not None and (loss in OF_CLASSES or isinstance(loss, SMOOTHED)):
            value, accuracy = evaluate(frozen.module, *examples.pair, loss)
            return {f"{name}_loss": value, f"{name}_accuracy": accuracy}
    operator = HessianOperator(checkpoint.model, loss, examples)
    return {f"{name}_loss": PerturbedLoss(operator).loss(), f"{name}_accuracy": None}
