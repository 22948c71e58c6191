"""Hessians from central differences in float64, which trust no second derivative."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flatlib.curvature import HessianOperator

STEP = 1e-5  # of the weights, for differences of the gradient
LOSS_STEP = 1e-3  # for second differences of the loss


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def moved(model: nn.Module, evaluate: Callable[[], Tensor], steps: Tensor) -> list[Tensor]:
    """Return a function of the weights at each of these displacements, (k, n)."""
    flat = nn.utils.parameters_to_vector(trained(model)).detach().clone()
    found = []
    for step in steps:
        nn.utils.vector_to_parameters(flat + step, trained(model))
        found.append(evaluate().detach())
    nn.utils.vector_to_parameters(flat, trained(model))
    return found


def differences(model: nn.Module, loss: Callable, data: tuple) -> Tensor:
    """(n, n) from differences of the gradient in evaluation mode."""
    model.eval()

    def gradient() -> Tensor:
        value = loss(model(data[0]), data[1])
        slopes = torch.autograd.grad(value, trained(model), materialize_grads=True)
        return torch.cat([slope.reshape(-1) for slope in slopes])

    eye = STEP * torch.eye(sum(p.numel() for p in trained(model)), dtype=torch.float64)
    ahead, behind = (torch.stack(moved(model, gradient, sign * eye)) for sign in (1, -1))
    hessian = (ahead - behind) / (2 * STEP)
    return (hessian + hessian.T) / 2


def jacobian(model: nn.Module, data: tuple) -> Tensor:
    """(outputs, n) from differences of all outputs in evaluation mode."""
    model.eval()
    eye = STEP * torch.eye(sum(p.numel() for p in trained(model)), dtype=torch.float64)
    ahead, behind = (torch.stack(moved(model, lambda: model(data[0]).flatten(), sign * eye)) for sign in (1, -1))
    return (ahead - behind).T / (2 * STEP)


def loss_differences(model: nn.Module, loss: Callable, data: tuple) -> Tensor:
    """(n, n) from second differences of the loss, where the gradient is not its derivative."""
    model.eval()
    n = sum(p.numel() for p in trained(model))
    rows, columns = torch.tril_indices(n, n)
    first, second = (LOSS_STEP * torch.eye(n, dtype=torch.float64)[index] for index in (rows, columns))
    corners = [(a * first + b * second, a * b) for a in (1, -1) for b in (1, -1)]
    values = [sign * torch.stack(moved(model, lambda: loss(model(data[0]), data[1]), at)) for at, sign in corners]
    hessian = torch.zeros(n, n, dtype=torch.float64)
    hessian[rows, columns] = hessian[columns, rows] = sum(values) / (4 * LOSS_STEP**2)
    return hessian


def assert_measured(model: nn.Module, loss: Callable, data: tuple, expected: Tensor | None = None, **options) -> None:
    """The Hessian is that of differences, in one chunk and in several."""
    if expected is None:
        expected = differences(model, loss, data)
    for chunk_size in (None, 2):
        found = HessianOperator(model, loss, data, chunk_size=chunk_size, **options).to_dense()
        assert (found - expected).norm() <= 1e-5 * expected.norm() + 1e-8
