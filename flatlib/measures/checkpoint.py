"""A network at one moment, and what it is measured on."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from flatlib.config import RunConfig
from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.curvature.operators.empirical_risk import Data as Examples
from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.losses import SmoothedCrossEntropy
from flatlib.training.data import Data

Split = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class Checkpoint:
    """A network at one moment of its training, and what it is measured on.

    Attributes:
        model: the network, left as it is by every measure.
        examples: what curvature is that of: (inputs, targets), or batches of such.
        loss: a name or a callable, as for `HessianOperator`.
        train, test: the two splits that loss and accuracy are taken on; None where they are not wanted.
        validation: a third split, where a run keeps one to choose settings by.
        after: makes the network after one more step of its training; None where there is no training.
        batch_norm, engine, tolerance, seed: how the curvature is measured, see `flatlib.curvature`.
        top_vector: the last top eigenvector found here. Along a trajectory the next search starts from it, which
            saves products; a new checkpoint has none, so that a final value owes nothing to an earlier one.
    """

    model: nn.Module
    examples: Examples
    loss: Loss = "cross_entropy"
    train: Split | None = None
    test: Split | None = None
    validation: Split | None = None
    after: Callable[[], nn.Module] | None = None
    batch_norm: str = "eval"
    engine: str = "lanczos"
    tolerance: float = 1e-3
    seed: int = 0
    top_vector: Tensor | None = None

    @property
    def subject(self) -> tuple[nn.Module, Loss, Examples]:
        """Model, loss and examples, which every measure of curvature or sharpness is of."""
        return self.model, self.loss, self.examples

    def hessian(self) -> HessianOperator:
        """The Hessian of the loss over the measured examples."""
        return HessianOperator(*self.subject, batch_norm=self.batch_norm)

    def gauss_newton(self) -> GaussNewtonOperator:
        """The Gauss-Newton matrix of the loss over the measured examples."""
        return GaussNewtonOperator(*self.subject, batch_norm=self.batch_norm)


def of_run(model: nn.Module, data: Data, config: RunConfig, after: Callable[[], nn.Module] | None = None) -> Checkpoint:
    """The checkpoint of a training run, measured as its configuration says.

    Args:
        model: the network as it stands.
        data: the images it trains on and is tested on, from `flatlib.training.data.load`.
        config: its settings; `measure_size`, `batch_norm`, `engine`, `tolerance` and `seed` say how it is measured.
        after: makes the network after one more step, for the measure `between_iterates`; None where there is none.
    """
    return Checkpoint(
        model=model,
        examples=data.measured(config.measure_size),
        loss=SmoothedCrossEntropy(config.label_smoothing) if config.label_smoothing else "cross_entropy",
        train=(data.x_train, data.y_train),
        test=(data.x_test, data.y_test),
        validation=data.validation,
        after=after,
        batch_norm=config.batch_norm,
        engine=config.engine,
        tolerance=config.tolerance,
        seed=config.seed,
    )
