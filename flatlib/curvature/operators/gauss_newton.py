"""The generalized Gauss-Newton matrix of a training loss as a linear operator."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.symmetry import require_second_derivatives
from flatlib.errors import NotFinite, explained

KEEP: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}


class Linearization(NamedTuple):
    r"""Graphs of one chunk: outputs f, $J^\top u$ at u, and the loss's gradient at a detached copy of f."""

    output: Tensor
    u: Tensor
    pulled_back: tuple[Tensor, ...]
    detached_output: Tensor
    slope: Tensor


class GaussNewtonOperator(CurvatureOperator):
    r"""Generalized Gauss-Newton matrix $G = \frac1N \sum_i J_i^\top \nabla^2_f \ell_i J_i$ as a linear operator.

    $J_i$ is the Jacobian of the outputs of example i in the parameters, $\nabla^2_f \ell_i$ the Hessian of its loss in
    its outputs. $G$ is the Hessian without $\sum_c \partial_{f_c} \ell \, \nabla^2_\theta f_c$, the network's own
    curvature (Schraudolph 2002, section 3); it is positive semidefinite for convex losses, and for cross-entropy it is
    the Fisher information. Arguments and errors are those of ``CurvatureOperator``.

    $Jv$ is the derivative of $J^\top u$ in u along v (the double-backward trick), which holds wherever a second
    derivative exists: batch norm in train mode too, where ``torch.func``'s forward over reverse mode is wrong.

    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> G = GaussNewtonOperator(model, "cross_entropy", (torch.randn(20, 4), torch.arange(20) % 3))
    >>> bool(torch.linalg.eigvalsh(G.to_dense())[0] > -1e-6)
    True
    """

    def _build(self, x: Tensor, y: Tensor) -> Linearization | None:
        output = self._chunk_output(x)
        detached = output.detach().requires_grad_()
        value = self.checked_loss(detached, y)
        if not (output.requires_grad and value.requires_grad):
            return None
        with explained("the loss's gradient fails"):
            slope = torch.autograd.grad(value, detached, create_graph=True, materialize_grads=True)[0]
        u = torch.zeros_like(output, requires_grad=True)
        inputs = list(self.parameters.values())
        with explained("the gradient fails"):
            pulled_back = torch.autograd.grad(output, inputs, u, create_graph=True, materialize_grads=True)
        require_second_derivatives((*pulled_back, slope))
        graph = Linearization(output, u, pulled_back, detached, slope)
        if not torch.isfinite(self._chunk_gradient(graph)).all():
            raise NotFinite("the gradient is not finite: the curvature is not defined")
        return graph

    def _product(self, graph: Linearization | None, v: Tensor) -> Tensor:
        if graph is None:
            return torch.zeros_like(v)
        outputs, weights = self._differentiable(graph.pulled_back, v)
        if not outputs:
            return torch.zeros_like(v)
        with explained("the second derivative fails"):
            tangent = torch.autograd.grad(outputs, graph.u, weights, **KEEP)[0]
            return self._pull_back(graph, self._output_product(graph, tangent))

    def _output_product(self, graph: Linearization, tangent: Tensor) -> Tensor:
        r"""Return the product of the chunk's loss's Hessian in the outputs, and a tangent of their shape."""
        if not graph.slope.requires_grad:  # a loss linear in the outputs
            return torch.zeros_like(tangent)
        return torch.autograd.grad(graph.slope, graph.detached_output, tangent, **KEEP)[0]

    def _chunk_gradient(self, graph: Linearization | None) -> Tensor:
        if graph is None:
            return torch.zeros(self.shape[0], dtype=self.torch_dtype, device=self.device)
        return self._pull_back(graph, graph.slope.detach())

    def _pull_back(self, graph: Linearization, u: Tensor) -> Tensor:
        r"""Return $J^\top u$, (n,)."""
        inputs = list(self.parameters.values())
        return flatten(torch.autograd.grad(graph.output, inputs, u, retain_graph=True, materialize_grads=True))
