"""The registry of measures: a name, and a function from a checkpoint to a flat dictionary of numbers.

A configuration asks for measures by name. A measure that is an estimate brings its companions along: `lambda_max`
comes with its residual, the products it took and whether it converged.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.data import Data
from flatlib.jacobian import jacobian_norm

Numbers = dict[str, float]
CHUNK = 1000  # images per forward pass when a whole split is evaluated


@dataclass
class Checkpoint:
    """A network at one moment of its training, and what it is measured on.

    `top_vector` is the last top eigenvector found here. Along a trajectory the next search starts from it, which
    saves products; a new checkpoint has none, so that a final value owes nothing to an earlier one.
    """

    model: nn.Module
    data: Data
    config: RunConfig
    top_vector: Tensor | None = None

    def hessian(self) -> HessianOperator:
        """The Hessian of the cross-entropy over the measured training images."""
        measured = self.data.measured(self.config.measure_size)
        return HessianOperator(self.model, "cross_entropy", measured, batch_norm=self.config.batch_norm)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy over all of (x, y), in evaluation mode, summed in float64."""
    training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=x.device)
    correct = torch.zeros((), dtype=torch.int64, device=x.device)
    for images, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = model(images)
        loss += nn.functional.cross_entropy(logits.double(), labels, reduction="sum")
        correct += (logits.argmax(dim=1) == labels).sum()
    model.train(training)
    return float(loss) / len(x), int(correct) / len(x)


def performance(checkpoint: Checkpoint) -> Numbers:
    """Loss and accuracy on both splits; `generalization_gap` = train minus test accuracy (Bejan et al. 2022),
    `loss_gap` = |train loss - test loss| (MacDonald et al. 2023, section 6)."""
    data = checkpoint.data
    train_loss, train_accuracy = evaluate(checkpoint.model, data.x_train, data.y_train)
    test_loss, test_accuracy = evaluate(checkpoint.model, data.x_test, data.y_test)
    return {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "generalization_gap": train_accuracy - test_accuracy,
        "loss_gap": abs(train_loss - test_loss),
    }


def train_loss(checkpoint: Checkpoint) -> Numbers:
    """Loss and accuracy on the training images alone: cheap enough for every point of a trajectory."""
    loss, accuracy = evaluate(checkpoint.model, checkpoint.data.x_train, checkpoint.data.y_train)
    return {"train_loss": loss, "train_accuracy": accuracy}


def lambda_max(checkpoint: Checkpoint) -> Numbers:
    """The largest eigenvalue of the Hessian of the training loss, with its residual ||Hv - lambda v||."""
    config = checkpoint.config
    found = top_eigenvalues(
        checkpoint.hessian(),
        engine=config.engine,
        tol=config.tolerance,
        start="random" if checkpoint.top_vector is None else checkpoint.top_vector,
        seed=config.seed,
    )
    checkpoint.top_vector = found.vectors[:, 0]
    return {
        "lambda_max": float(found.values[0]),
        "lambda_max_residual": float(found.residuals[0]),
        "lambda_max_products": int(found.products),
        "lambda_max_converged": bool(found.converged),
    }


def gradient_norm(checkpoint: Checkpoint) -> Numbers:
    """Euclidean norm of the gradient of the training loss over the measured images."""
    return {"gradient_norm": float(checkpoint.hessian().gradient().norm())}


def weight_norm(checkpoint: Checkpoint) -> Numbers:
    """Euclidean norm of all trainable parameters."""
    squares = [p.detach().double().square().sum() for p in checkpoint.model.parameters() if p.requires_grad]
    return {"weight_norm": float(torch.stack(squares).sum().sqrt())}


def jacobian_norms(checkpoint: Checkpoint, *, softmax: bool) -> Numbers:
    """Spectral norm of the input-output Jacobian over the measured images, largest and mean; of the logits, or of the
    softmaxed model, whose largest norm MacDonald et al. 2023 follow in Figure 1."""
    images, _ = checkpoint.data.measured(checkpoint.config.measure_size)
    norms = jacobian_norm(checkpoint.model, images, softmax=softmax)
    name = "softmax_jacobian_norm" if softmax else "jacobian_norm"
    return {name: float(norms.max()), f"{name}_mean": float(norms.mean())}


REGISTRY: dict[str, Callable[[Checkpoint], Numbers]] = {
    "performance": performance,
    "train_loss": train_loss,
    "lambda_max": lambda_max,
    "gradient_norm": gradient_norm,
    "weight_norm": weight_norm,
    "jacobian_norm": functools.partial(jacobian_norms, softmax=False),
    "softmax_jacobian_norm": functools.partial(jacobian_norms, softmax=True),
}


def measure(names: Iterable[str], checkpoint: Checkpoint) -> Numbers:
    """All measures with these names, of one checkpoint, in one flat dictionary."""
    return {key: value for name in names for key, value in REGISTRY[name](checkpoint).items()}
