"""The penalty on the input-output Jacobian by random projection (Hoffman, Roberts and Yaida 2019)."""

import torch
from torch import Tensor


class JacobianPenalty:
    r"""Estimate of $\frac{\rho}{N} \sum_i \|\partial f(x_i) / \partial x_i\|_F^2$ from one projection of each example.

    For v uniform on the unit sphere of the C outputs $C\, \mathbb{E} \|v^\top J\|^2 = \|J\|_F^2$, at one backward pass
    more, which is differentiated again (Hoffman et al. 2019, "Robust learning with Jacobian regularization",
    arXiv:1908.02729, Algorithm 1; their coefficient is $2\rho$). J is that of the network as it trains: with dropout,
    and in train mode batch norm an example's outputs depend on the others, whose derivatives the sum contains.

    >>> x = torch.eye(2, requires_grad=True)
    >>> round(float(JacobianPenalty(1.0, torch.Generator().manual_seed(0))(x, 3 * x)), 4)  # |v|^2 = 1: exact, 2 * 9
    18.0

    Args:
        coefficient: $\rho$, in the units of the loss per squared output and times squared input.
        generator: Generator of the projections, on the CPU, so that every device draws the same.
    """

    def __init__(self, coefficient: float, generator: torch.Generator):
        self._coefficient, self._generator = coefficient, generator

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the estimate for inputs (N, ...) that require grad and their outputs (N, C)."""
        drawn = torch.randn(output.shape, generator=self._generator)
        direction = torch.nn.functional.normalize(drawn, dim=1).to(output)
        (slope,) = torch.autograd.grad(output, x, direction, create_graph=True)
        return self._coefficient * output.shape[1] * slope.square().sum() / len(x)
