"""Evaluate loss and accuracy of a network on the training and test images."""

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.device import full_precision
from flatlib.errors import FlatlibError
from flatlib.losses import SmoothedCrossEntropy
from flatlib.measures.checkpoint import Checkpoint, Split

Numbers = dict[str, float | None]  # measures by name; None where a measure is not defined for the network
CHUNK = 1000  # images per forward pass when a whole split is evaluated


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = "cross_entropy") -> tuple[float, float]:
    """Compute the mean cross-entropy and the accuracy over all of (x, y), in evaluation mode, summed in float64.

    Args:
        model: Maps (N, ...) to logits (N, C); its mode is restored.
        x: (N, ...) inputs, on any device.
        y: (N,) classes, on any device.
        loss: The training loss; if it smooths the labels (`SmoothedCrossEntropy`), the same smoothing applies here.

    Returns:
        The loss in nats, and the accuracy as a share between 0 and 1.

    >>> evaluate(nn.Identity(), torch.eye(2), torch.tensor([0, 1]))[1]
    1.0
    """
    smoothed = loss if isinstance(loss, SmoothedCrossEntropy) else None
    smoothing = smoothed.smoothing if smoothed else 0.0
    training = model.training
    model.eval()
    place = next(model.parameters(), x).device
    total = torch.zeros((), dtype=torch.float64, device=place)
    correct = torch.zeros((), dtype=torch.int64, device=place)
    with full_precision():
        for images, labels in zip(x.split(CHUNK), y.to(place).split(CHUNK), strict=True):
            logits = model(images.to(place))
            total += nn.functional.cross_entropy(logits.double(), labels, reduction="sum", label_smoothing=smoothing)
            correct += (logits.argmax(dim=1) == labels).sum()
    model.train(training)
    mean = float(total) / len(x)
    if smoothed:
        mean -= float(smoothed.entropy(y, logits.shape[1]))
    return mean, int(correct) / len(x)


def performance(checkpoint: Checkpoint) -> Numbers:
    """Return loss and accuracy on both splits; `generalization_gap` = train minus test accuracy (Bejan et al. 2022),
    `loss_gap` = |train loss - test loss| (MacDonald et al. 2023, section 6). Also loss and accuracy on the
    validation split, where there is one."""
    train_loss, train_accuracy = evaluate(checkpoint.model, *_given(checkpoint.train, "train"), checkpoint.loss)
    test_loss, test_accuracy = evaluate(checkpoint.model, *_given(checkpoint.test, "test"), checkpoint.loss)
    numbers: Numbers = {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "generalization_gap": train_accuracy - test_accuracy,
        "loss_gap": abs(train_loss - test_loss),
    }
    if checkpoint.validation is not None:
        loss, accuracy = evaluate(checkpoint.model, *checkpoint.validation, checkpoint.loss)
        numbers |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return numbers


def train_loss(checkpoint: Checkpoint) -> Numbers:
    """Return loss and accuracy on the training images alone: cheap enough for every point of a trajectory."""
    loss, accuracy = evaluate(checkpoint.model, *_given(checkpoint.train, "train"), checkpoint.loss)
    return {"train_loss": loss, "train_accuracy": accuracy}


def _given(split: Split | None, name: str) -> Split:
    if split is None:
        raise FlatlibError(f"this measure needs the {name} images; the checkpoint was made without them")
    return split
