"""The penalty on the Jacobian against the dense Jacobian, and what it does to a run."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.measures import evaluate
from flatlib.training.jacobian_penalty import JacobianPenalty
from flatlib.training.optim import batch_gradient
from flatlib.training.train import train

X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def mean_square(model) -> torch.Tensor:
    """Mean of ||J||_F^2 over the examples, from the dense Jacobian."""
    rows = torch.func.vmap(torch.func.jacrev(lambda x: model(x)))(X)
    return rows.square().sum((1, 2)).mean()


def flat(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_projections_are_unbiased():
    """Value and gradient, within four standard errors of the mean over 2000 draws."""
    model, penalty = network(), JacobianPenalty(0.3, torch.Generator().manual_seed(0))
    weights = list(model.parameters())[:3]  # the last bias changes no derivative
    x = X.clone().requires_grad_()
    exact = 0.3 * mean_square(model)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, weights)])
    draws = [penalty(x, model(x)) for _ in range(2000)]
    values = torch.stack(draws).detach()
    slopes = [torch.autograd.grad(draw, weights) for draw in draws]
    gradients = torch.stack([torch.cat([g.flatten() for g in slope]) for slope in slopes])
    assert abs(values.mean() - exact.item()) < 4 * values.std() / 2000**0.5
    assert values.std() / 2000**0.5 < 0.02 * exact.item()
    deviation = (gradients.mean(0) - expected).abs()
    assert (deviation <= 4.5 * gradients.std(0) / 2000**0.5 + 1e-12).all()


@pytest.mark.parametrize("microbatch", [None, 12, 5])
def test_it_is_added_to_the_loss(microbatch):
    """With one output the projection is exact, so that the gradient is that of the penalised loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    targets = torch.ones(12, 1, dtype=torch.float64)
    loss = F.mse_loss(model(X), targets) + 0.7 * mean_square(model)
    expected = torch.autograd.grad(loss, list(model.parameters())[:3])
    batch_gradient(model, F.mse_loss, (X, targets), microbatch, JacobianPenalty(0.7, torch.Generator()))
    torch.testing.assert_close(flat(model)[:-1], torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-12)


TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=20, stop="epochs")
MEASURES = ("performance", "jacobian_norm")


@pytest.mark.parametrize("settings", [{}, {"model": "small_cnn_bn", "max_epochs": 4}, {"microbatch": 20}], ids=str)
def test_a_run_with_it_has_a_smaller_jacobian(settings):
    base = replace(TINY, measures=MEASURES, **settings)
    plain, penalised = (train(replace(base, jacobian_penalty=value), device="cpu") for value in (0.0, 0.01))
    means = [run.measures["jacobian_norm_mean"] for run in (plain, penalised)]
    assert means[1] < 0.9 * means[0]
    data = penalised.data
    assert penalised.measures["train_loss"] == evaluate(penalised.model, data.x_train, data.y_train)[0]
    again = train(replace(base, jacobian_penalty=0.01), device="cpu")
    assert again.measures == penalised.measures


@pytest.mark.parametrize("settings", [{"sam_rho": 0.1}, {"loss": "batch_softmax"}], ids=str)
def test_what_it_does_not_go_with(settings):
    with pytest.raises(FlatlibError, match="jacobian_penalty: goes with neither"):
        RunConfig(jacobian_penalty=0.1, **settings)
