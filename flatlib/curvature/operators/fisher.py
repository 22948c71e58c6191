"""The empirical Fisher matrix, and the Fisher matrix by labels drawn from the model, as linear operators."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.example_losses import require_own_losses, require_own_outputs
from flatlib.curvature.operators.examples import Chunk, Data, Examples
from flatlib.curvature.operators.forward import without_gradients
from flatlib.curvature.operators.gauss_newton import GaussNewtonOperator, Linearization
from flatlib.curvature.operators.loss_checks import slopes
from flatlib.curvature.operators.nested import mapped, shapes
from flatlib.errors import FlatlibError, NotFinite
from flatlib.losses import cross_entropy, mse


class EmpiricalFisherOperator(GaussNewtonOperator):
    r"""Empirical Fisher matrix $\frac1N \sum_i g_i g_i^\top$ of each example's gradient $g_i = \nabla_\theta \ell_i$.

    It is the second moment of the gradients at the given targets (Kunstner et al. 2019, "Limitations of the empirical
    Fisher approximation", arXiv:1905.12558, equation 3, there a sum). It is not an estimate of the Fisher matrix, which
    takes the targets from the model (their equation 2, and ``MonteCarloFisherOperator``), and need not resemble the
    Hessian: where every example is fitted it vanishes. The loss stands for $-\log p$; "mse" is that of a normal
    distribution around the D outputs with the variance D / 2. In units of the squared loss per squared parameter.

    No gradient is stored: with $g_i = J_i^\top s_i$, $s_i$ the derivative of $\ell_i$ in the outputs, a product is
    that of a Gauss-Newton matrix with $s_i s_i^\top$ in place of the loss's Hessian. Arguments and errors are those of
    ``CurvatureOperator``; a loss or a model that mixes examples raises ``NotDefined`` in the first product.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)  # the gradients are (-2, 0) and (0, -2)
    >>> EmpiricalFisherOperator(model, "mse", (torch.eye(2), torch.ones(2, 1))).to_dense()
    tensor([[2., 0.],
            [0., 2.]])
    """

    _verified = 0  # examples whose own loss has been checked

    def slopes(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the derivative of each example's own loss in its outputs, (N, ...)."""
        require_own_losses(self, output, target)
        return len(output) * slopes(self.checked_loss, output, target)[0]

    def _build(self, chunk: Chunk) -> Linearization:
        graph = super()._build(chunk)
        if self._verified < self.examples:
            require_own_losses(self, require_own_outputs(self, chunk), chunk.targets)
            self._verified += chunk.size
        return graph

    def _output_product(self, graph: Linearization, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        pairs = [(slope.detach(), tangent) for slope, tangent in zip(graph.slopes, tangents, strict=True)]
        along = torch.stack([(slope * tangent).flatten(1).sum(1) for slope, tangent in pairs]).sum(0)
        count = len(along)
        return [count * slope * along.view(-1, *[1] * (slope.ndim - 1)) for slope, _ in pairs]

    def difference_product(self, v: Tensor) -> Tensor | None:
        """Return None: a product is no derivative, but made of the gradients, which are compared."""
        return None


class MonteCarloFisherOperator(EmpiricalFisherOperator):
    r"""Fisher matrix $\frac1N \sum_i \mathbb{E}_{y \sim p(y | x_i)}[g_i g_i^\top]$, with labels drawn from the model.

    The labels are drawn once, in the constructor: from the softmax of the outputs for "cross_entropy", and for "mse"
    from the normal distribution around the D outputs of an example with the variance D / 2, whose $-\log p$ it is.
    The matrix is that of ``EmpiricalFisherOperator`` for these labels, whose expectation is the Gauss-Newton matrix
    (Kunstner et al. 2019, section 3.3, for targets that are classes or probabilities). Products and eigenvalues are
    exact for the labels drawn; other seeds show the spread.

    >>> _ = torch.manual_seed(0)
    >>> model, data = torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    >>> F = MonteCarloFisherOperator(model, "cross_entropy", data, samples=20_000)
    >>> G = GaussNewtonOperator(model, "cross_entropy", data)
    >>> torch.allclose(F.to_dense(), G.to_dense(), atol=0.01)
    True

    Args:
        samples: Labels drawn for each example; a product costs as many times that of the empirical Fisher.
        seed: Seed of the labels.
        **options: Arguments of ``CurvatureOperator``, as are model, loss and data.

    Attributes:
        data: Inputs, each ``samples`` times, and the labels drawn.

    Raises:
        FlatlibError: For another loss, and for outputs of "cross_entropy" that are not (N, C).
    """

    def __init__(self, model: nn.Module, loss: Loss, data: Data, *, samples: int = 1, seed: int = 0, **options: Any):
        super().__init__(model, loss, data, **options)
        if self.loss not in (cross_entropy, mse):
            raise FlatlibError('labels can be drawn for the losses "cross_entropy" and "mse" only')
        if not isinstance(samples, int) or samples < 1:
            raise FlatlibError(f"samples={samples} is not a positive number of labels for each example")
        examples = self._examples.single
        if examples is None:
            raise FlatlibError("labels can be drawn for examples of one shape, in tensors with one entry an example")
        with self.measuring():
            output = torch.cat([self._logits(self.cast(chunk)) for chunk in examples.split(self.chunk_size)])
        generator = torch.Generator().manual_seed(seed)
        labels = (draw_normal if self.loss is mse else draw_classes)(output.double().cpu(), samples, generator)
        inputs = mapped(examples.inputs, lambda tensor: tensor.repeat_interleave(samples, 0))
        self._take(Examples.of([Chunk(inputs, labels.flatten(0, 1), len(output) * samples)]))

    def _logits(self, chunk: Chunk) -> Tensor:
        """Return a chunk's outputs, or raise a ``FlatlibError`` if no labels can be drawn from them."""
        output = without_gradients(lambda: self.output(chunk.inputs))
        if not isinstance(output, Tensor) or len(output) != chunk.size or (self.loss is not mse and output.ndim != 2):
            raise FlatlibError(f"labels can be drawn from outputs (N, C), got {shapes(output)}")
        if not torch.isfinite(output).all():
            raise NotFinite("the outputs are not finite: no labels can be drawn")
        return output

    def gradient(self) -> Tensor:
        """Raise a ``FlatlibError``: the loss has the gradient of the given targets, which are not used here."""
        raise FlatlibError("the labels are drawn: take the gradient of a HessianOperator on the given targets")


def draw_classes(logits: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Draw (N, samples) classes from the softmax of logits (N, C)."""
    cumulative = logits.softmax(1).cumsum(1)
    places = torch.rand(len(logits), samples, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, places, right=True).clamp_max(logits.shape[1] - 1)  # where u * 1 rounds to 1


def draw_normal(output: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Draw (N, samples, ...) targets around outputs (N, ...) of D numbers each, with the variance D / 2."""
    noise = torch.randn(len(output), samples, *output.shape[1:], generator=generator, dtype=torch.float64)
    return output.unsqueeze(1) + math.sqrt(output[0].numel() / 2) * noise
