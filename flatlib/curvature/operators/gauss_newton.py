"""The generalised Gauss-Newton matrix of a training loss as a matrix-free linear operator."""

from typing import NamedTuple

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.symmetry import require_second_derivatives
from flatlib.errors import NotFinite, explained


class Linearised(NamedTuple):
    """Graphs of one chunk: outputs f, $J^\\top u$ at u, and the loss's gradient at a detached copy of f."""

    output: Tensor
    u: Tensor
    pulled_back: tuple[Tensor, ...]
    detached_output: Tensor
    slope: Tensor


class GaussNewtonOperator(CurvatureOperator):
    r"""$G = \frac1N \sum_i J_i^\top \nabla^2_f \ell_i J_i$; parameters and errors are those of `CurvatureOperator`.

    $J_i$ is the Jacobian of the outputs of example i in the parameters, $\nabla^2_f \ell_i$ the Hessian of its loss in
    its outputs. $G$ is the Hessian less $\sum_c \partial_{f_c} \ell \, \nabla^2_\theta f_c$, the network's own
    curvature (Schraudolph 2002, section 3); it is positive semidefinite for convex losses.

    $Jv$ is the derivative of $J^\top u$ in u along v (the double-backward trick), which holds wherever a second
    derivative does: batch norm in train mode too, where forward mode over reverse mode is not to be trusted.
    """

    def _build(self, x: Tensor, y: Tensor) -> Linearised | None:
        output = self._chunk_output(x)
        detached = output.detach().requires_grad_()
        value = self._checked_loss(detached, y)
        if not (output.requires_grad and value.requires_grad):
            return None
        with explained("the loss's gradient fails"):
            slope = torch.autograd.grad(value, detached, create_graph=True, materialize_grads=True)[0]
        u = torch.zeros_like(output, requires_grad=True)
        inputs = list(self.parameters.values())
        with explained("the gradient fails"):
            pulled_back = torch.autograd.grad(output, inputs, u, create_graph=True, materialize_grads=True)
        require_second_derivatives((*pulled_back, slope))
        built = Linearised(output, u, pulled_back, detached, slope)
        if not torch.isfinite(self._chunk_gradient(built)).all():
            raise NotFinite("the gradient is not finite: the curvature is not defined")
        return built

    def _product(self, built: Linearised | None, v: Tensor) -> Tensor:
        if built is None or not built.slope.requires_grad:  # a loss linear in the outputs
            return torch.zeros_like(v)
        pairs = zip(built.pulled_back, v.split(self._sizes), strict=True)
        pieces = [(g, piece.view_as(g)) for g, piece in pairs if g.requires_grad]
        if not pieces:
            return torch.zeros_like(v)
        outputs, weights = zip(*pieces, strict=True)
        with explained("the second derivative fails"):
            tangent = torch.autograd.grad(outputs, built.u, weights, retain_graph=True, materialize_grads=True)[0]
            bent = torch.autograd.grad(
                built.slope, built.detached_output, tangent, retain_graph=True, materialize_grads=True
            )[0]
        return self._pull_back(built, bent)

    def _chunk_gradient(self, built: Linearised | None) -> Tensor:
        if built is None:
            return torch.zeros(self.shape[0], dtype=self.torch_dtype, device=self.device)
        return self._pull_back(built, built.slope.detach())

    def _pull_back(self, built: Linearised, u: Tensor) -> Tensor:
        r"""$J^\top u$, (n,)."""
        inputs = list(self.parameters.values())
        return flatten(torch.autograd.grad(built.output, inputs, u, retain_graph=True, materialize_grads=True))
