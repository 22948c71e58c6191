"""A network at one moment of its training, and the examples it is measured on."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data

Split = Data


@dataclass(kw_only=True)
class Checkpoint:
    """A network at one moment of its training, and the examples it is measured on.

    Attributes:
        model: The network. Every measure leaves it as it is.
        examples: (inputs, targets) on which curvature is measured, or an iterable of batches.
        loss: A name or a callable, as for `HessianOperator`.
        train: Split on which training loss and accuracy are measured; None if they are not needed.
        test: Split on which test loss and accuracy are measured; None if they are not needed.
        validation: A third split, where a run keeps one to choose settings by.
        after: Returns the network after one more training step; None without training.
        optimizer: Optimizer of the training with its state; None without training.
        batch_norm: Mode of batch norm, as for `HessianOperator`.
        engine: Method of `top_eigenvalues`.
        tolerance: Largest residual of an eigenvalue relative to it.
        seed: Seed of probes and starting vectors.
        batch_size: Batch size of the training, for `batch_sharpness`; None if there is none.
        top_vector: The last top eigenvector, from which the next search along a trajectory starts; a new checkpoint has
            none, so that a final value does not depend on an earlier one.
    """

    model: nn.Module
    examples: Data
    loss: Loss = "cross_entropy"
    train: Split | None = None
    test: Split | None = None
    validation: Split | None = None
    after: Callable[[], nn.Module] | None = None
    optimizer: Optimizer | None = None
    batch_norm: str = "eval"
    engine: str = "lanczos"
    tolerance: float = 1e-3
    seed: int = 0
    batch_size: int | None = None
    top_vector: Tensor | None = None

    @property
    def subject(self) -> tuple[nn.Module, Loss, Data]:
        """Model, loss and examples, the first arguments of every measure of curvature or sharpness."""
        return self.model, self.loss, self.examples

    def hessian(self) -> HessianOperator:
        """Return the Hessian of the loss over the measured examples."""
        return HessianOperator(*self.subject, batch_norm=self.batch_norm)

    def gauss_newton(self) -> GaussNewtonOperator:
        """Return the Gauss-Newton matrix of the loss over the measured examples."""
        return GaussNewtonOperator(*self.subject, batch_norm=self.batch_norm)
