"""Failure modes: both engines of flatlib are right on each problem, and a library fails on each."""

import pytest
from torch.nn.utils import parameters_to_vector

from flatlib.bench.failure_modes import SOLVERS, evaluate_all, reference_eigenvalue, verdicts
from flatlib.bench.traps import PROBLEMS, make_problem

OURS = ("flatlib", "flatlib, PyHessian engine")
RIGHT = {"batches of unequal size", "a loss that holds the model", "a wrapped forward", "remembered features"}
CAUGHT = set(PROBLEMS) - RIGHT  # by PyHessian 0.1, which is a dependency


@pytest.fixture(scope="module")
def rows():
    return {row["trap"]: row for row in evaluate_all()}


@pytest.mark.parametrize("trap", PROBLEMS)
def test_both_engines(rows, trap):
    row = rows[trap]
    for ours in OURS:
        if row["truth"] is None:
            assert row[ours].startswith("FlatlibError: ")
        else:
            assert row[ours] == pytest.approx(row["truth"], rel=1e-3)


def test_bare_pyhessian_fails(rows):
    table = verdicts(list(rows.values()))
    assert set(table.index[table["PyHessian"] != "right"]) == CAUGHT
    assert table.loc["no data", "PyHessian"] == "wrong: nan"
    assert table.loc["no data", "flatlib"] == table.loc["attention", "PyHessian"] == "refuses"
    assert table.loc["eigenvalues 2, -3, 0.5", "PyHessian"] == "wrong: -3"


def test_reference_eigenvalues():
    names = ("eigenvalues 2, -3, 0.5", "a loss of a billionth", "a parameter not used")
    quadratic, tiny, plain = (reference_eigenvalue(make_problem(name)) for name in names)
    assert quadratic == pytest.approx(2, rel=1e-6)
    assert tiny == pytest.approx(1e-9 * plain, rel=1e-6)


def test_problems_are_deterministic():
    first, second = (parameters_to_vector(make_problem("weight norm").model.parameters()) for _ in range(2))
    assert first.equal(second)
    assert set(SOLVERS) >= {*OURS, "PyHessian", "curvlinops + eigsh", "hessian-eigenthings"}
