"""The Hessian of a training loss as an operator, by double backward."""

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.symmetry import require_second_derivatives
from flatlib.errors import NotFinite, explained


class HessianOperator(CurvatureOperator):
    r"""The Hessian $H = \nabla^2_\theta L$; parameters and errors are those of `CurvatureOperator`.

    A product is the gradient of $\langle \nabla L, v \rangle$ (Pearlmutter 1994); the gradient's graph is kept.
    """

    def checked_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of one chunk, for an engine that differentiates it itself: a finite scalar, or a `FlatlibError`."""
        return self._checked_loss(output, target)

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

    def _product(self, built: list[Tensor], v: Tensor) -> Tensor:
        r"""$\nabla \langle g, v \rangle$; entries of g which do not depend on the parameters have no derivative."""
        pairs = zip(built, v.split(self._sizes), strict=True)
        pieces = [(g, piece.view_as(g)) for g, piece in pairs if g.requires_grad]
        if not pieces:
            return torch.zeros_like(v)
        outputs, weights = zip(*pieces, strict=True)
        inputs = list(self.parameters.values())
        with explained("the second derivative fails"):
            return flatten(torch.autograd.grad(outputs, inputs, weights, retain_graph=True, materialize_grads=True))

    def _chunk_gradient(self, built: list[Tensor]) -> Tensor:
        return flatten(built)
