"""The benchmark of a panel on a network that takes milliseconds."""

import copy
import math

import pandas as pd
import pytest
import torch
from torch import nn

from flatlib.bench.libraries import unusable
from flatlib.bench.panel import (
    ESTIMATES,
    OTHERS,
    TOGETHER,
    benchmark,
    beside,
    by_problem,
    costs,
    libraries,
    probes_needed,
    readable,
    report,
)
from flatlib.bench.problems import Problem
from flatlib.curvature import trace
from flatlib.measures import REGISTRY

ERROR = 0.1  # relative, of the libraries' estimates, for few probes


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(40, 9)
    y = x[:, :3].argmax(1)
    moved = copy.deepcopy(model)
    moved[0].bias.data += 0.01
    return Problem("tiny", model, [(x, y)], test=(x, y), after=lambda: moved)


@pytest.fixture(scope="module", autouse=True)
def few_probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flatlib.bench.panel.RELATIVE_ERROR", ERROR)
        yield


@pytest.fixture(scope="module")
def entry(problem):
    return benchmark(problem, 1)


def test_every_measure_has_a_cost(entry):
    assert set(TOGETHER) < set(REGISTRY)
    assert list(entry["measures"]) == [*REGISTRY, "together"]
    table = costs([entry]).set_index("measure")
    assert (table["cost"] > 0).all()
    assert table.loc["lambda_max", "products"] > table.loc["gradient_norm", "products"] == 0
    assert table.loc["gradient_norm", "gradients"] == 1
    alone = table.loc[[*TOGETHER]].sum()
    assert table.loc["together", "products"] < alone["products"]
    assert table.loc["together", "gradients"] < alone["gradients"]
    assert table.loc["lambda_max", "error"] <= 3e-4
    assert table.loc["frobenius", "error"] <= 0.03
    assert table.loc["trace", "error"] == 0
    assert math.isnan(table.loc["performance", "error"])


def test_libraries_take_as_many_probes_as_the_error_needs(problem, entry):
    needed = probes_needed(problem)
    operator = problem.hessian()
    dense = operator.to_dense()
    plain = trace(operator, probes=400)
    assert needed["trace"] == pytest.approx(400 * (plain.standard_error / float(dense.trace()) / ERROR) ** 2, rel=0.5)
    for key, estimate in ESTIMATES.items():
        quantity, _, name = key.partition(", ")
        if unusable(name, problem) is None:
            assert entry["libraries"][key]["products"] == needed[quantity]
            value = estimate(problem, needed[quantity], 0)
            true = float(dense.square().sum() if quantity == "frobenius" else dense.trace())
            assert value == pytest.approx(true, rel=5 * ERROR), key
    assert "lambda_max, PyHessian" in entry["libraries"]


def test_tables(entry):
    table = beside([entry])
    assert table["quantity"].tolist() == ["lambda_max", "trace", "frobenius"]
    assert (table["flatlib"] > 0).all()
    assert table["PyHessian"].isna().tolist() == [False, False, True]
    assert "together" in report([entry])
    wide = by_problem([entry])
    assert list(wide.index) == [*REGISTRY, "together"]
    assert readable(wide).loc["trace", "tiny: error"] == "0.0"
    assert readable(wide).loc["performance", "tiny: error"] == ""
    assert list(wide.columns) == ["tiny: gradients", "tiny: error"]
    assert {len(seconds) for seconds in entry["seconds"].values()} == {1}


def test_a_library_that_is_not_installed_is_said_to_be(problem, monkeypatch):
    monkeypatch.setattr("flatlib.bench.libraries.importlib.util.find_spec", lambda name: None)
    found = libraries(problem, 1)
    assert set(found) == {f"lambda_max, {name}" for name in OTHERS} | set(ESTIMATES)
    assert {about["missing"] for about, call in found.values() if call is None} == {"not installed"}
    entry = {"problem": "tiny", "seconds": {}, "libraries": {key: about for key, (about, _) in found.items()}}
    table = beside([entry]).set_index("quantity")
    assert (table.loc["trace", list(OTHERS)] == "not installed").all()
    assert readable(table).loc["trace", "PyHessian"] == "not installed"
    assert pd.isna(table.loc["frobenius", "PyHessian"])  # which it does not offer
