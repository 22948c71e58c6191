"""Tracking inside a loop of one's own, with any optimizer."""

import copy

import pytest
import torch
from torch import nn

from flatlib.curvature import (
    HessianOperator,
    PreconditionedOperator,
    adam_preconditioner,
    preconditioned_eigenvalue,
    top_eigenvalues,
)
from flatlib.curvature.spectrum.preconditioned import stability_threshold
from flatlib.errors import FlatlibError
from flatlib.measures.tracker import Tracker

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Dropout(0.2), nn.Linear(40, 3))
    x = torch.randn(30, 6)
    return model, "cross_entropy", (x, x[:, :3].argmax(1))


def descend(problem, optimizer, updates, look=lambda update: None):
    model, _, (x, y) = problem
    torch.manual_seed(1)
    for update in range(updates):
        look(update)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    look(updates)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_looking_does_not_disturb_training(problem, kind):
    model, *rest = problem
    watched = copy.deepcopy(model), *rest
    descend(problem, OPTIMIZERS[kind](model.parameters()), 6)
    optimizer = OPTIMIZERS[kind](watched[0].parameters())
    tracker = Tracker(*watched, optimizer=optimizer, measures=["lambda_max", "train_loss"])
    descend(watched, optimizer, 6, tracker.look)
    for one, other in zip(model.parameters(), watched[0].parameters(), strict=True):
        assert torch.equal(one, other)
    table = tracker.table()
    assert table["update"].tolist() == list(range(7))
    fresh = top_eigenvalues(HessianOperator(*watched), seed=5)
    assert table["lambda_max"].iloc[-1] == pytest.approx(float(fresh.values[0]), rel=2e-3)
    assert ("preconditioned_lambda_max" in table) == (kind == "adam")


def test_adam_has_its_own_coordinates(problem):
    model = problem[0]
    optimizer = OPTIMIZERS["adam"](model.parameters())
    tracker = Tracker(*problem, optimizer=optimizer)
    descend(problem, optimizer, 8, tracker.look)
    table = tracker.table()
    assert table["preconditioned_lambda_max"].isna().tolist() == [True] + [False] * 8  # no step, no second moments
    operator = HessianOperator(*problem)
    fresh = preconditioned_eigenvalue(operator, adam_preconditioner(optimizer, model, operator), seed=3)
    assert table["preconditioned_lambda_max"].iloc[-1] == pytest.approx(float(fresh.values[0]), rel=2e-3)
    assert table["stability_threshold"].iloc[0] == pytest.approx(38 / 0.01)


def test_all_eigenvalues_above_a_number(problem):
    tracker = Tracker(*problem, measures=["train_loss"], above=0.1)
    descend(problem, OPTIMIZERS["sgd"](problem[0].parameters()), 3, tracker.look)
    spectrum = torch.linalg.eigvalsh(HessianOperator(*problem).to_dense()).flip(0)
    last = tracker.table().iloc[-1]
    assert last["eigenvalues_above"] == int((spectrum > 0.1).sum()) > 2
    assert last["eigenvalues_above_complete"]
    for i in range(int(last["eigenvalues_above"])):
        error = last[f"eigenvalue_above_{i:02}_residual"] + 1e-6
        assert last[f"eigenvalue_above_{i:02}"] == pytest.approx(float(spectrum[i]), abs=error)
    assert f"eigenvalue_above_{int(last['eigenvalues_above']):02}" not in last.dropna()


@pytest.mark.parametrize(("kind", "rate"), [("sgd", 5.0), ("adam", 0.3)])
def test_all_eigenvalues_above_the_edge_of_stability(problem, kind, rate):
    """Of the preconditioned Hessian for Adam, once it has taken a step."""
    model = problem[0]
    optimizer = OPTIMIZERS[kind](model.parameters())
    tracker = Tracker(*problem, optimizer=optimizer, above="stability")
    descend(problem, optimizer, 3, tracker.look)
    optimizer.param_groups[0]["lr"] = rate
    point = tracker.look(4)
    operator = HessianOperator(*problem)
    if kind == "adam":
        operator = PreconditionedOperator(operator, adam_preconditioner(optimizer, model, operator))
        assert tracker.table()["eigenvalues_above"].isna().tolist() == [True, False, False, False, False]
    spectrum = torch.linalg.eigvalsh(operator.to_dense())
    assert point["eigenvalues_above_complete"]
    assert point["eigenvalues_above"] == int((spectrum > stability_threshold(optimizer)).sum()) > 0
    assert point["eigenvalue_above_00"] == pytest.approx(float(spectrum[-1]), rel=1e-3)


def test_no_threshold_is_none(problem):
    optimizer = OPTIMIZERS["adagrad"](problem[0].parameters())
    assert Tracker(*problem, optimizer=optimizer, above="stability").look(0)["eigenvalues_above"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"above": "edge"}, "allowed: stability"),
        ({"above": "stability"}, "needs the optimizer"),
        ({"above": 0.0}, "=0.0"),
    ],
)
def test_thresholds_that_are_refused(problem, options, message):
    with pytest.raises(FlatlibError, match=message):
        Tracker(*problem, **options).look(0)


def test_batch_sharpness_has_the_batch_size_of_the_training(problem):
    assert Tracker(*problem, measures=["batch_sharpness"], batch_size=5).look(0)["batch_sharpness_standard_error"] > 0


def test_warm_starts_save_products(problem):
    tracker, cold = Tracker(*problem), []

    def look(update):
        tracker.look(update)
        cold.append(top_eigenvalues(HessianOperator(*problem), start="random").products)

    descend(problem, OPTIMIZERS["sgd"](problem[0].parameters()), 15, look)
    assert tracker.table()["lambda_max_products"][1:].sum() < sum(cold[1:])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 20.0),
        ({"momentum": 0.9}, 38.0),
        ({"momentum": 0.9, "nesterov": True}, 38.0 / 2.8),
        ({"momentum": 0.9, "dampening": 0.5}, None),
    ],
)
def test_threshold_of_a_quadratic(settings, expected):
    """Just below it the iterates shrink, just above they grow."""
    assert stability_threshold(torch.optim.SGD([torch.ones(1)], lr=0.1, **settings)) == pytest.approx(expected)
    if expected is None:
        return
    for factor, grows in ((0.98, False), (1.02, True)):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, **settings)
        for _ in range(1500):
            w.grad = factor * expected * w.detach()
            optimizer.step()
        assert (float(w.detach().abs()) > 1) == grows


@pytest.mark.parametrize("other", [{"lr": 0.2}, {"momentum": 0.9, "nesterov": True}, {"dampening": 0.5}], ids=str)
def test_other_optimizers_have_no_threshold(other):
    groups = [{"params": [torch.ones(1)]}, {"params": [torch.ones(1)]} | other]
    assert stability_threshold(torch.optim.SGD(groups, lr=0.1, momentum=0.9)) is None
    assert stability_threshold(torch.optim.RMSprop([torch.ones(1)])) is None
    assert stability_threshold(torch.optim.SGD([torch.ones(1)], lr=0.1, maximize=True)) is None


def test_unknown_measures_are_refused(problem):
    with pytest.raises(FlatlibError, match="unknown name 'sharpness'; allowed: performance, "):
        Tracker(*problem, measures=["sharpness"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_data_may_be_elsewhere(problem):
    """A loader gives tensors on the CPU."""
    model, *rest = problem
    tracker = Tracker(model.cuda(), *rest, measures=["lambda_max", "train_loss"])
    assert tracker.look(0)["train_loss"] > 0
