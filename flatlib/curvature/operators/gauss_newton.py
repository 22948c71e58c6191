"""The generalized Gauss-Newton matrix of a training loss as a linear operator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator, flatten
from flatlib.curvature.operators.examples import Chunk
from flatlib.curvature.operators.nested import detached_leaf, leaves, with_leaves
from flatlib.curvature.operators.precision import is_finite
from flatlib.curvature.operators.symmetry import connected_gradient, require_own_graph
from flatlib.errors import FlatlibError, NotFinite, explained

KEEP: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}


class Linearization(NamedTuple):
    r"""Graphs of one chunk: outputs f, $J^\top u$ at u, and the loss's gradient at a detached copy of f."""

    loss: Tensor
    outputs: list[Tensor]
    us: list[Tensor]
    pulled_back: list[Tensor]
    detached_outputs: list[Tensor]
    slopes: list[Tensor]


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

    def _build(self, chunk: Chunk) -> Linearization:
        if self.takes_model:
            raise FlatlibError("a loss of (model, batch) has no outputs to linearize: pass one of (output, target)")
        output = self.twice_differentiable_output(chunk.inputs)
        detached = [detached_leaf(leaf) for leaf in leaves(output)]
        value = self.checked_loss(with_leaves(output, detached), chunk.targets)
        outputs = [leaf for leaf in leaves(output) if leaf.requires_grad]
        places = [here for here, leaf in zip(detached, leaves(output), strict=True) if leaf.requires_grad]
        slopes = self._slopes(value, places)
        us = [torch.zeros_like(leaf, requires_grad=True) for leaf in outputs]
        inputs = list(self.parameters.values())
        with explained("the gradient fails"):
            pulled_back = connected_gradient(outputs, inputs, us)
        require_own_graph((*pulled_back, *slopes), self.frozen.originals)
        graph = Linearization(value.detach(), outputs, us, pulled_back, places, slopes)
        if not is_finite(self._chunk_gradient(graph)):
            raise NotFinite("the gradient is not finite: the curvature is not defined")
        return graph

    def _slopes(self, value: Tensor, outputs: list[Tensor]) -> list[Tensor]:
        """Return the loss's gradient in the outputs, one number per example and output."""
        inputs = list(self.parameters.values())
        if not value.requires_grad:
            return [torch.zeros_like(leaf) for leaf in outputs]
        with explained("the loss's gradient fails"):
            found = torch.autograd.grad(value, [*outputs, *inputs], create_graph=True, allow_unused=True)
        if any(slope is not None for slope in found[len(outputs) :]):
            raise FlatlibError("the loss uses the parameters beside the outputs: it has no Gauss-Newton matrix")
        if any(leaf.ndim == 0 and slope is not None for leaf, slope in zip(outputs, found, strict=False)):
            raise FlatlibError("the loss uses a number that the model has averaged: it has no Gauss-Newton matrix")
        return [torch.zeros_like(p) if slope is None else slope for p, slope in zip(outputs, found, strict=False)]

    def _product(self, graph: Linearization, v: Tensor) -> Tensor:
        outputs, weights = self._differentiable(graph.pulled_back, v)
        if not outputs:  # they do not depend on the parameters
            return torch.zeros_like(v)
        with explained("the second derivative fails"):
            tangents = torch.autograd.grad(outputs, graph.us, weights, **KEEP)
            return self._pull_back(graph, self._output_product(graph, tangents))

    def _output_product(self, graph: Linearization, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        r"""Return the product of the chunk's loss's Hessian in the outputs, and tangents of their shapes."""
        slopes = [slope for slope in graph.slopes if slope.requires_grad]
        if not slopes:  # a loss linear in the outputs
            return [torch.zeros_like(tangent) for tangent in tangents]
        along = [t for t, slope in zip(tangents, graph.slopes, strict=True) if slope.requires_grad]
        return torch.autograd.grad(slopes, graph.detached_outputs, along, **KEEP)

    def _chunk_gradient(self, graph: Linearization) -> Tensor:
        return self._pull_back(graph, [slope.detach() for slope in graph.slopes])

    def _pull_back(self, graph: Linearization, us: Sequence[Tensor]) -> Tensor:
        r"""Return $J^\top u$, (n,)."""
        inputs = list(self.parameters.values())
        return flatten(torch.autograd.grad(graph.outputs, inputs, us, retain_graph=True, materialize_grads=True))

    def differenced(self, u: Tensor) -> list[Tensor]:
        return [slope.detach() for slope in self._graph.slopes]

    def along(self, u: Tensor, change: list[Tensor]) -> float:
        with self.measuring():
            return float(u @ self._pull_back(self._graph, change))

    def gradient_size(self, gradient: Tensor) -> float:
        """Return the size of a gradient whose examples do not cancel, as at a minimum they do."""
        signs = [
            torch.arange(slope.numel(), device=slope.device).view_as(slope) % 2 * 2 - 1 for slope in self._graph.slopes
        ]
        with self.measuring():
            slopes = [slope.detach() * sign for slope, sign in zip(self._graph.slopes, signs, strict=True)]
            return float(self._pull_back(self._graph, slopes).norm() + gradient.norm())
