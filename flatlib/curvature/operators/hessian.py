"""The Hessian of a training loss as a linear operator, by double backward."""

from typing import NamedTuple

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.examples import Chunk
from flatlib.curvature.operators.precision import is_finite
from flatlib.curvature.operators.symmetry import connected_gradient, require_own_graph
from flatlib.errors import NotFinite, explained


class LossGradient(NamedTuple):
    """Loss of a chunk and its gradient, one tensor per parameter, with the graph of the second derivative."""

    loss: Tensor
    gradient: list[Tensor]


class HessianOperator(CurvatureOperator):
    r"""Hessian $H = \nabla^2_\theta L$ of an empirical risk as a linear operator.

    A product is the gradient of $\langle \nabla L, v \rangle$ (Pearlmutter 1994, "Fast exact multiplication by the
    Hessian"). Arguments and errors are those of ``CurvatureOperator``.

    >>> _ = torch.manual_seed(0)
    >>> H = HessianOperator(torch.nn.Linear(4, 3), "cross_entropy", (torch.randn(20, 4), torch.arange(20) % 3))
    >>> H.shape, H.matvec(torch.ones(15)).shape
    ((15, 15), torch.Size([15]))
    >>> torch.allclose(H.to_dense(), H.to_dense().T, atol=1e-6)
    True
    """

    def _build(self, chunk: Chunk) -> LossGradient:
        value = self.chunk_loss(chunk)
        inputs = list(self.parameters.values())
        with explained("the gradient fails"):
            gradient = connected_gradient([value], inputs)
        require_own_graph(gradient, self.frozen.originals)
        if not all(map(is_finite, gradient)):
            raise NotFinite("the gradient is not finite: the curvature is not defined")
        return LossGradient(value.detach(), gradient)

    def _product(self, graph: LossGradient, v: Tensor) -> Tensor:
        outputs, weights = self._differentiable(graph.gradient, v)
        if not outputs:  # no entry of the gradient depends on the parameters
            return torch.zeros_like(v)
        inputs = list(self.parameters.values())
        with explained("the second derivative fails"):
            return flatten(torch.autograd.grad(outputs, inputs, weights, retain_graph=True, materialize_grads=True))

    def _chunk_gradient(self, graph: LossGradient) -> Tensor:
        return flatten(graph.gradient)

    def differenced(self, u: Tensor) -> list[Tensor]:
        gradient = (g.detach().flatten() for g in self._graph.gradient)
        return [torch.stack([g @ piece for g, piece in zip(gradient, u.split(self._sizes), strict=True)]).sum()]

    def along(self, u: Tensor, change: list[Tensor]) -> float:
        return float(change[0])

    def gradient_size(self, gradient: Tensor) -> float:
        return float(gradient.norm())
