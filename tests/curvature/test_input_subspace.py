"""Few inputs of many numbers: the row space that a first linear layer sees gives the same eigenvalues."""

import pytest
import torch
from torch import nn

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues
from flatlib.curvature.spectrum.input_subspace import reduced_operator

N, D, H, C = 9, 60, 8, 3
X = torch.randn(N, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ELSEWHERE = {
    "past it": lambda net, x: net.last(torch.relu(net.first(x))) + net.past(x),
    "changed": lambda net, x: net.last(torch.relu(net.first(x * x))),
}


def operator_of(x=X, kind=HessianOperator, activation=nn.Tanh, **options):
    """Of a network of two layers."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, H), activation(), nn.Linear(H, C)).double()
    return kind(model, "cross_entropy", (x, torch.arange(len(x)) % C), **options)


def check(operator, ends=(-1,), **options):
    """Compare the eigenvalues with those of the dense matrix."""
    exact = torch.linalg.eigvalsh(operator.to_dense())[list(ends)]
    found = top_eigenvalues(operator, tol=1e-9, **options)
    torch.testing.assert_close(found.values, exact, rtol=1e-9, atol=0)
    return found


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("parameters", [None, ["1.weight"], ["1.bias", "3.*"]])
def test_agrees_with_the_whole_matrix(kind, images, parameters):
    x = X.view(N, 3, 4, 5) if images else X
    operator = operator_of(x, kind, parameters=parameters)
    narrow = reduced_operator(operator)
    assert narrow.operator.shape[0] < operator.shape[0] or parameters == ["1.bias", "3.*"]
    found = check(operator, ends=(-1, -2), k=2)
    assert found.vectors.shape == (operator.shape[0], 2)
    torch.testing.assert_close(operator.matmat(found.vectors), found.vectors * found.values, rtol=0, atol=1e-8)


def test_both_ends_and_repeated_inputs():
    assert check(operator_of(), ends=(-1, 0), which="both").values[1] < 0
    check(operator_of(X[:1].expand(N, D)))


def test_zeros_outside_the_subspace_count():
    operator = operator_of(kind=GaussNewtonOperator, activation=nn.ReLU)
    assert reduced_operator(operator) is not None
    found = top_eigenvalues(operator, which="smallest", start="random", max_products=300)
    assert abs(float(found.values[0])) < 1e-9  # the narrowed matrix may well have none


def test_warm_start():
    operator = operator_of()
    first = top_eigenvalues(operator, tol=1e-6)
    again = top_eigenvalues(operator, tol=1e-6, start=first.vectors[:, 0].float())
    torch.testing.assert_close(again.values, first.values, rtol=1e-8, atol=0)


def test_project_inverts_lift():
    narrow = reduced_operator(operator_of())
    inside = torch.randn(narrow.operator.shape[0], 2, dtype=torch.float64)
    wide = narrow.lift(inside)
    torch.testing.assert_close(wide.T @ wide, inside.T @ inside)
    torch.testing.assert_close(torch.stack([narrow.project(v) for v in wide.T], 1), inside)


@pytest.mark.parametrize("steps", ELSEWHERE.values(), ids=ELSEWHERE)
def test_inputs_used_elsewhere_prevent_reduction(steps):
    """They do not go to the first layer alone, or not as they are."""
    torch.manual_seed(5)
    net = Net(steps, first=nn.Linear(D, H), past=nn.Linear(D, C), last=nn.Linear(H, C)).double()
    operator = HessianOperator(net, "cross_entropy", (X, torch.arange(N) % C))
    assert reduced_operator(operator) is None
    check(operator)


def test_many_examples_prevent_reduction():
    assert reduced_operator(operator_of(torch.randn(2 * D, D, dtype=torch.float64))) is None
