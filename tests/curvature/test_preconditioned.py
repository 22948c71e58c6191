import copy

import pytest
import torch
from torch import nn

from flatlib.curvature import HessianOperator
from flatlib.curvature.spectrum.preconditioned import (
    PreconditionedOperator,
    adam_preconditioner,
    adam_stability_threshold,
    preconditioned_eigenvalue,
)
from flatlib.errors import FlatlibError
from flatlib.measures import Checkpoint, measure


def stepped(case, kind=torch.optim.Adam, steps=3, **options):
    """The case's model after some full-batch steps, and its optimizer."""
    optimizer = kind(case.model.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(case.model.eval()(case.data[0]), case.data[1]).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}, {"betas": (0.8, 0.99), "eps": 1e-3}])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_is_what_adam_divides_by(small_case, kind, options):
    """One more step moves the weights by the learning rate times the raw first moment over P."""
    model = small_case.model
    optimizer = stepped(small_case, kind, lr=1e-2, weight_decay=0.0, **options)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer.step()
    moved = before - nn.utils.parameters_to_vector(model.parameters()).detach()
    first = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in model.parameters()])
    P = adam_preconditioner(optimizer, model, HessianOperator(*small_case))
    torch.testing.assert_close(moved, 1e-2 * first / P)


def test_agrees_with_the_dense_preconditioned_hessian(model_case):
    optimizer = stepped(model_case, eps=1e-3)
    operator = HessianOperator(*model_case)
    P = adam_preconditioner(optimizer, model_case.model, operator)
    found = preconditioned_eigenvalue(operator, P, tol=1e-6)
    dense = operator.to_dense()
    assert float(found.values[0]) == pytest.approx(float(torch.linalg.eigvals(dense / P[:, None]).real.max()), rel=1e-8)
    assert found.converged
    both = PreconditionedOperator(operator, P)
    V = torch.randn(len(P), 2, dtype=torch.float64)
    torch.testing.assert_close(both.matmat(V), both.to_dense() @ V)
    torch.testing.assert_close(both.matvec(V[:, 0]), both.to_dense() @ V[:, 0])
    again = preconditioned_eigenvalue(operator, P, start=found.vectors[:, 0])
    assert float(again.values[0]) == pytest.approx(float(found.values[0]), rel=1e-3)


def test_a_block_in_the_operators_order(small_case):
    optimizer = stepped(small_case)
    block = adam_preconditioner(optimizer, small_case.model, HessianOperator(*small_case, parameters="3.*"))
    whole = adam_preconditioner(optimizer, small_case.model, HessianOperator(*small_case))
    assert torch.equal(block, whole[45:])


def test_threshold_is_where_adam_diverges():
    """Momentum steps on a one-dimensional quadratic: stable just below the threshold, unstable just above."""

    def last(curvature, beta=0.9, rate=0.1):
        w, m = 1.0, 0.0
        for _ in range(1000):
            m = beta * m + (1 - beta) * curvature * w
            w -= rate * m
        return abs(w)

    threshold = adam_stability_threshold(0.1)
    assert last(0.98 * threshold) < 1e-3
    assert last(1.02 * threshold) > 1e3


def test_bad_arguments(small_case):
    operator = HessianOperator(*small_case)
    with pytest.raises(FlatlibError, match="has made no step"):
        adam_preconditioner(torch.optim.Adam(small_case.model.parameters()), small_case.model, operator)
    with pytest.raises(FlatlibError, match="SGD is not Adam"):
        adam_preconditioner(stepped(small_case, torch.optim.SGD, lr=0.1), small_case.model, operator)
    with pytest.raises(FlatlibError, match=r'does not hold the parameter "0\.weight"'):
        adam_preconditioner(stepped(small_case), copy.deepcopy(small_case.model), operator)
    n = operator.shape[0]
    for preconditioner in (torch.zeros(n), torch.full((n,), torch.nan), -torch.ones(n)):
        with pytest.raises(FlatlibError, match="positive and finite"):
            preconditioned_eigenvalue(operator, preconditioner)
    with pytest.raises(FlatlibError, match=f"must be {n} numbers"):
        preconditioned_eigenvalue(operator, torch.ones(2))


def test_rounding_that_the_preconditioner_amplifies_is_refused():
    """A bias before batch norm has no gradient: Adam divides its rounding by no more than epsilon."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    data = torch.randn(32, 4), torch.arange(32) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    single, double = (
        HessianOperator(model, "cross_entropy", data, batch_norm="train", dtype=dtype)
        for dtype in (None, torch.float64)
    )
    P = adam_preconditioner(optimizer, model, single)
    with pytest.raises(FlatlibError, match="float64"):
        preconditioned_eigenvalue(single, P)
    expected = float(torch.linalg.eigvals(double.to_dense() / P[:, None]).real.max())
    assert float(preconditioned_eigenvalue(double, P, tol=1e-6).values[0]) == pytest.approx(expected, rel=1e-6)
    measured = measure(
        ["preconditioned_lambda_max"], Checkpoint(model=model, examples=data, optimizer=optimizer, batch_norm="train")
    )
    assert measured["preconditioned_lambda_max"] == pytest.approx(expected, rel=1e-3)
