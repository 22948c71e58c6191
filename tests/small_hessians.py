"""A small network, data for it, and whether its Hessian is measured right, or refused in one line."""

import pytest
import torch
from torch import nn

from brought import differences, flat_gradient
from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError

X = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) // 4
REAL = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
WEIGHTS = torch.tensor([1.0, 9.0, 30.0], dtype=torch.float64)


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def assert_right(model, loss, data, value, **options):
    """The Hessian is that of the value, a function without arguments that calls the reader's model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    truth = differences(lambda: flat_gradient(value(), parameters).detach(), parameters)
    found = HessianOperator(model, loss, data, **options).to_dense()
    assert (found - truth).norm() <= 1e-5 * truth.norm()


def assert_refused(model, loss, data, message, kind=HessianOperator, **options):
    with pytest.raises(FlatlibError, match=message) as error:
        kind(model, loss, data, **options).to_dense()
    assert "\n" not in str(error.value)
