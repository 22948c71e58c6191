"""Few inputs of many numbers: the row space that a first linear layer sees gives the same eigenvalues."""

import pytest
import torch
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues
from flatlib.curvature.spectrum.input_subspace import reduced_operator

N, D, H, C = 9, 60, 8, 3


def an_mlp(activation=nn.ReLU):
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, H), activation(), nn.Linear(H, C)).double()


def data(images=False):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return x.view(N, 3, 4, 5) if images else x, torch.arange(N) % C


class Net(nn.Module):
    """A network whose inputs do not go to its first layer alone, or not as they are."""

    def __init__(self, steps):
        super().__init__()
        self.first, self.past, self.last = nn.Linear(D, H), nn.Linear(D, C), nn.Linear(H, C)
        self.steps = steps

    def forward(self, x):
        return self.steps(self, x)


ELSEWHERE = {
    "past it": lambda net, x: net.last(torch.relu(net.first(x))) + net.past(x),
    "changed": lambda net, x: net.last(torch.relu(net.first(x * x))),
}


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("parameters", [None, ["1.weight"], ["1.bias", "3.*"]])
def test_agrees_with_the_whole_matrix(kind, images, parameters):
    operator = kind(an_mlp(nn.Tanh), "cross_entropy", data(images), parameters=parameters)
    narrow = reduced_operator(operator)
    assert narrow.operator.shape[0] < operator.shape[0] or parameters == ["1.bias", "3.*"]
    found = top_eigenvalues(operator, 2, tol=1e-9)
    exact = torch.linalg.eigvalsh(operator.to_dense())
    torch.testing.assert_close(found.values, exact[-2:].flip(0), rtol=1e-9, atol=0)
    assert found.vectors.shape == (operator.shape[0], 2)
    torch.testing.assert_close(operator.matmat(found.vectors), found.vectors * found.values, rtol=0, atol=1e-8)


def test_both_ends():
    operator = HessianOperator(an_mlp(nn.Tanh), "cross_entropy", data())
    exact = torch.linalg.eigvalsh(operator.to_dense())
    assert exact[0] < 0
    found = top_eigenvalues(operator, which="both", tol=1e-9)
    torch.testing.assert_close(found.values, exact[[-1, 0]], rtol=1e-8, atol=0)


def test_zeros_outside_the_subspace_count():
    operator = GaussNewtonOperator(an_mlp(), "cross_entropy", data())
    assert reduced_operator(operator) is not None
    found = top_eigenvalues(operator, which="smallest", start="random", max_products=300)
    assert abs(float(found.values[0])) < 1e-9  # the narrowed matrix may well have none


def test_warm_start():
    operator = HessianOperator(an_mlp(nn.Tanh), "cross_entropy", data())
    first = top_eigenvalues(operator, tol=1e-6)
    again = top_eigenvalues(operator, tol=1e-6, start=first.vectors[:, 0].float())
    torch.testing.assert_close(again.values, first.values, rtol=1e-8, atol=0)


def test_project_inverts_lift():
    narrow = reduced_operator(HessianOperator(an_mlp(), "cross_entropy", data()))
    inside = torch.randn(narrow.operator.shape[0], 2, dtype=torch.float64)
    wide = narrow.lift(inside)
    torch.testing.assert_close(wide.T @ wide, inside.T @ inside)
    torch.testing.assert_close(torch.stack([narrow.project(v) for v in wide.T], 1), inside)


def test_repeated_inputs():
    x, y = data()
    operator = HessianOperator(an_mlp(), "cross_entropy", (x[:1].expand(N, D), y))
    found = top_eigenvalues(operator, tol=1e-9)
    torch.testing.assert_close(found.values[0], torch.linalg.eigvalsh(operator.to_dense())[-1], rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", ELSEWHERE.values(), ids=ELSEWHERE)
def test_inputs_used_elsewhere_prevent_reduction(steps):
    torch.manual_seed(5)
    operator = HessianOperator(Net(steps).double(), "cross_entropy", data())
    assert reduced_operator(operator) is None
    found = top_eigenvalues(operator, tol=1e-9)
    torch.testing.assert_close(found.values[0], torch.linalg.eigvalsh(operator.to_dense())[-1], rtol=1e-8, atol=0)


def test_many_examples_prevent_reduction():
    x = torch.randn(2 * D, D, dtype=torch.float64)
    assert reduced_operator(HessianOperator(an_mlp(), "cross_entropy", (x, torch.arange(2 * D) % C))) is None
