"""The Hessian of a training loss as a linear operator, by double backward."""

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.symmetry import require_second_derivatives
from flatlib.errors import NotFinite, explained


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

    def _build(self, x: Tensor, y: Tensor) -> list[Tensor]:
        output = self._chunk_output(x)
        value = self.checked_loss(output, y)
        if not value.requires_grad:
            return [torch.zeros_like(p) for p in self.parameters.values()]
        inputs = list(self.parameters.values())
        with explained("the gradient fails"):
            gradient = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        require_second_derivatives(gradient)
        if not torch.isfinite(flatten(gradient)).all():
            raise NotFinite("the gradient is not finite: the curvature is not defined")
        return list(gradient)

    def _product(self, graph: list[Tensor], v: Tensor) -> Tensor:
        outputs, weights = self._differentiable(graph, v)
        if not outputs:  # no entry of the gradient depends on the parameters
            return torch.zeros_like(v)
        inputs = list(self.parameters.values())
        with explained("the second derivative fails"):
            return flatten(torch.autograd.grad(outputs, inputs, weights, retain_graph=True, materialize_grads=True))

    def _chunk_gradient(self, graph: list[Tensor]) -> Tensor:
        return flatten(graph)
