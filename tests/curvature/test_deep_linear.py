"""The chain with the exponential loss: its closed forms against autograd, against the package, against the paper."""

import pytest
import torch

from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace
from flatlib.curvature.closed_form import deep_linear as chain
from flatlib.errors import FlatlibError

WEIGHTS = {
    "two": [0.4, -1.7],
    "three": [1.3, -0.7, 2.1],
    "five": [1.1, 0.8, -0.6, 1.9, 1.4],
    "with a zero": [0.0, 1.5, -0.8],
    "one": [0.7],
}
INPUTS, TARGETS = [1.2, -0.4, 2.0], [-1.0, 1.0, -1.0]
PRODUCTS = [x * y for x, y in zip(INPUTS, TARGETS, strict=True)]


@pytest.fixture(params=WEIGHTS.values(), ids=WEIGHTS)
def weights(request) -> list[float]:
    return request.param


def of_network(weights, operator=HessianOperator):
    data = [torch.tensor(values, dtype=torch.float64)[:, None] for values in (INPUTS, TARGETS)]
    return operator(chain.deep_linear(weights), chain.exponential_loss, tuple(data))


def plain_loss(w: torch.Tensor) -> torch.Tensor:
    return torch.exp(-torch.tensor(PRODUCTS, dtype=torch.float64) * w.prod()).mean()


def test_closed_forms_agree_with_autograd(weights):
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    dense = torch.autograd.functional.hessian(plain_loss, w)
    assert chain.chain_loss(weights, PRODUCTS) == pytest.approx(plain_loss(w).item(), rel=1e-14)
    (slope,) = torch.autograd.grad(plain_loss(w), w)
    torch.testing.assert_close(chain.chain_gradient(weights, PRODUCTS), slope, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chain.chain_hessian(weights, PRODUCTS), dense, rtol=1e-10, atol=1e-10)
    assert chain.hessian_trace(weights, PRODUCTS) == pytest.approx(dense.trace().item(), rel=1e-10)
    assert chain.chain_sharpness(weights, PRODUCTS) == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-10)


def test_operators_agree_with_closed_forms(weights):
    hessian, gauss_newton = of_network(weights), of_network(weights, GaussNewtonOperator)
    torch.testing.assert_close(hessian.to_dense(), chain.chain_hessian(weights, PRODUCTS), rtol=1e-10, atol=1e-10)
    expected = chain.chain_gauss_newton(weights, PRODUCTS)
    torch.testing.assert_close(gauss_newton.to_dense(), expected, rtol=1e-10, atol=1e-10)
    assert trace(hessian).value == pytest.approx(chain.hessian_trace(weights, PRODUCTS), rel=1e-6)
    found = top_eigenvalues(hessian, tol=1e-6)
    assert found.values.item() == pytest.approx(chain.chain_sharpness(weights, PRODUCTS), rel=1e-6)


@pytest.mark.parametrize("x", [1.0, -1.0, -2.5])
def test_paper_equations_lack_a_square(x):
    """Equations 3 and 4 of Granziol 2020 as printed, with X = -m, beside the Hessian of autograd."""
    w = torch.tensor(WEIGHTS["three"], dtype=torch.float64)
    w1, w2, w3 = w
    q = torch.stack([w2 * w3, w1 * w3, w1 * w2])
    slope = x * (w.prod() * x).exp()
    matrix, trace_and_lambda = slope * torch.outer(q, q), slope * (q @ q)
    torch.testing.assert_close(x * matrix, chain.chain_gauss_newton(w, [-x]), rtol=1e-12, atol=0)
    assert (x * trace_and_lambda).item() == pytest.approx(chain.hessian_trace(w, [-x]), rel=1e-12)
    dense = torch.autograd.functional.hessian(lambda w: torch.exp(w.prod() * x), w)
    assert (x * matrix).trace().item() == pytest.approx(dense.trace().item(), rel=1e-12)
    missing = slope * torch.tensor([[0, w3, w2], [w3, 0, w1], [w2, w1, 0]], dtype=torch.float64)
    torch.testing.assert_close(x * matrix + missing, dense, rtol=1e-12, atol=1e-14)
    assert abs(torch.linalg.eigvalsh(dense)[-1].item() / dense.trace().item() - 1) > 0.01


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("weight", [0.5, 0.95, 1.4])
def test_balanced_sharpness(weight, depth):
    assert chain.balanced_sharpness(weight, depth) == pytest.approx(chain.chain_sharpness([weight] * depth), rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_weight_decay_ends_at_balanced_minimum(depth):
    decay = 0.02
    w = chain.balanced_minimum(decay, depth)
    end = chain.gradient_descent([1.1] * (depth - 1) + [1.3], weight_decay=decay, updates=2000, learning_rate=0.5)[-1]
    torch.testing.assert_close(end, torch.full((depth,), w, dtype=torch.float64), rtol=1e-9, atol=0)
    law = decay * (1 + depth * (w**depth - 1))
    assert chain.chain_sharpness(end) == pytest.approx(law, rel=1e-9)
    assert chain.balanced_sharpness(w, depth) == pytest.approx(law, rel=1e-9)


def test_trajectory_updates_are_log_spaced():
    path = chain.gradient_descent([1.0, 0.7, 1.3], updates=100)
    table = chain.trajectory_table(path)
    assert list(table["update"]) == sorted(set(table["update"]))
    assert (table["update"].iloc[0], table["update"].iloc[-1]) == (1, 100)
    last = table.iloc[-1]
    assert (last["train_loss"], last["lambda_max"]) == (chain.chain_loss(path[-1]), chain.chain_sharpness(path[-1]))
    assert last["trace"] == chain.hessian_trace(path[-1])


def test_growing_weights_flatten():
    path = chain.gradient_descent([1.0, 0.7, 1.3], updates=5000)[[0, 50, 500, 5000]]
    losses, values = [chain.chain_loss(w) for w in path], [chain.chain_sharpness(w) for w in path]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-5
    assert values[-1] < 1e-2 * values[0]


def test_shrinking_weight_sharpens():
    outputs = [2.0, 4.0, 8.0]
    road = [[torch.e**-f, torch.e**f * f, 1.0] for f in outputs]
    losses, values = [chain.chain_loss(w) for w in road], [chain.chain_sharpness(w) for w in road]
    assert losses == pytest.approx([torch.e**-f for f in outputs])
    assert values == sorted(values)
    assert values[-1] > 1e3 * values[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chain.chain_hessian([]), r"weights: expected a list of numbers, got the shape \(0,\)"),
        (lambda: chain.chain_hessian([1.0], [[1.0]]), r"products: expected a list .* got the shape \(1, 1\)"),
        (lambda: chain.balanced_sharpness(0.0), "weight=0.0 must be positive"),
        (lambda: chain.balanced_sharpness(1.0, 1), "depth=1: a chain has at least two weights"),
        (lambda: chain.balanced_minimum(-1.0), "weight_decay=-1.0 must be positive"),
        (lambda: chain.balanced_minimum(2.0), "weight_decay=2 is so large"),
        (lambda: chain.balanced_minimum(2.0, 2), "weight_decay=2 is so large"),
        (lambda: chain.exponential_loss(torch.zeros(3, 1), torch.zeros(3)), r"targets of shape \(3,\)"),
        (lambda: chain.gradient_descent([3.0, 3.0], [-1.0], learning_rate=9.0, updates=40), "diverged"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(FlatlibError, match=message):
        call()
