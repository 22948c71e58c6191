"""Cross-entropy near zero: the bound on its Hessian, and the network whose sharpness grows as its loss vanishes."""

import pytest
import torch
from torch import nn

from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.closed_form.zero_loss import cancelling_paths, hessian_bound

EXAMPLE = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long)


def loss_and_sharpness(model: nn.Module, data) -> tuple[float, float]:
    found = top_eigenvalues(HessianOperator(model, "cross_entropy", data), tol=1e-8)
    return nn.functional.cross_entropy(model(data[0]), data[1]).item(), found.values.item()


@pytest.mark.parametrize(("margin", "loss", "sharpness"), [(1, 1.3e-1, 53), (3, 2.5e-3, 3.2e3), (6, 6.1e-6, 1.3e6)])
def test_sharpness_grows_while_the_loss_vanishes(margin, loss, sharpness):
    """Theorem 1 of Granziol 2020 fails although no weight is below 1 in size."""
    model = cancelling_paths(margin)
    assert min(p.abs().min().item() for p in model.parameters()) >= 1
    assert loss_and_sharpness(model, EXAMPLE) == pytest.approx((loss, sharpness), rel=0.05)
    assert loss_and_sharpness(model, EXAMPLE)[1] <= hessian_bound(model, *EXAMPLE)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_bound_holds(scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, 4)).double()
    data = torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 4
    for p in model.parameters():
        p.data *= scale
    dense = torch.linalg.eigvalsh(HessianOperator(model, "cross_entropy", data).to_dense())
    assert 0 < dense.abs().max() <= hessian_bound(model, *data)


def test_growing_layers_of_one_path_flatten():
    """Without a second path the bound falls with the loss, and the sharpness with it."""
    found = []
    for margin in (2.0, 6.0, 12.0):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2, bias=False)).double()
        side = (margin / 2) ** 0.5
        model[0].weight.data.fill_(side)
        model[2].weight.data.copy_(torch.tensor([[side], [-side]]))
        found.append((hessian_bound(model, *EXAMPLE), loss_and_sharpness(model, EXAMPLE)[1]))
    assert all(value <= bound for bound, value in found)
    bounds = [bound for bound, _ in found]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 1e-2
