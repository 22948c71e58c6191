"""Fisher operators against the gradients of single examples, written out, and against the Gauss-Newton matrix."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from flatlib.curvature import (
    EmpiricalFisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    MonteCarloFisherOperator,
    diagonal,
    frobenius,
    top_eigenvalues,
    trace,
)
from flatlib.errors import FlatlibError
from flatlib.losses import resolve_loss

X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def second_moment(model, loss, x, y):
    """The mean of the outer products of every example's own gradient, from one backward pass each."""
    model.eval()
    rows = []
    for one, its in zip(x.split(1), y.split(1), strict=True):
        value = resolve_loss(loss)(model(one), its)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
    gradients = torch.stack(rows)
    return gradients.T @ gradients / len(x)


def smoothed(output, target):
    """A callable that flatlib does not know."""
    return F.cross_entropy(output, target, label_smoothing=0.2)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("known", [True, False])
def test_agrees_with_single_gradients(case, chunk_size, known):
    model, loss, (x, y) = case
    loss = loss if known else smoothed
    operator = EmpiricalFisherOperator(model, loss, (x, y), chunk_size=chunk_size)
    expected = second_moment(model, loss, x, y)
    torch.testing.assert_close(operator.to_dense(), expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(operator.gradient(), HessianOperator(model, loss, (x, y)).gradient())
    assert float(top_eigenvalues(operator, tol=1e-8).values[0]) == pytest.approx(
        float(torch.linalg.eigvalsh(expected)[-1])
    )
    assert frobenius(operator).value == pytest.approx(float(expected.norm()))


@pytest.mark.parametrize("kind", [EmpiricalFisherOperator, MonteCarloFisherOperator])
def test_trace_and_diagonal(case, request, kind):
    operator = kind(*case, chunk_size=7)
    dense = operator.to_dense().diagonal()
    found, entries = trace(operator), diagonal(operator)
    assert found.exact == ("attention" not in request.node.callspec.id)
    assert found.value == pytest.approx(float(dense.sum()), rel=1e-10, abs=5 * found.standard_error)
    assert entries.exact
    torch.testing.assert_close(entries.values, dense, rtol=1e-9, atol=1e-14)


def test_a_loss_linear_in_the_outputs_has_one():
    """Its Gauss-Newton matrix is zero."""
    model = nn.Linear(8, 1).double()
    operator = EmpiricalFisherOperator(model, lambda output, target: output.mean(), (X.double(), Y))
    torch.testing.assert_close(
        operator.to_dense(), second_moment(model, lambda output, target: output.mean(), X.double(), Y)
    )


def test_probabilities_and_pixels():
    """Targets (N, C) and outputs (N, C, positions), of which an example's loss is the mean."""
    model = nn.Linear(8, 3).double()
    soft = torch.rand(6, 3, dtype=torch.float64).softmax(1)
    operator = EmpiricalFisherOperator(model, "cross_entropy", (X.double(), soft))
    torch.testing.assert_close(operator.to_dense(), second_moment(model, "cross_entropy", X.double(), soft))
    pixels = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Unflatten(1, (3, 4))).double()
    classes = torch.arange(24).view(6, 4) % 3
    operator = EmpiricalFisherOperator(pixels, "cross_entropy", (X.double(), classes))
    torch.testing.assert_close(operator.to_dense(), second_moment(pixels, "cross_entropy", X.double(), classes))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_drawn_labels_give_the_gauss_newton_matrix(loss):
    """Entry by entry within five standard errors, over 200 seeds; the empirical Fisher lies far off."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    data = X.double(), Y
    expected = GaussNewtonOperator(model, loss, data).to_dense()
    draws = torch.stack([MonteCarloFisherOperator(model, loss, data, seed=seed).to_dense() for seed in range(200)])
    error = draws.std(0) / 200**0.5
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    given = EmpiricalFisherOperator(model, loss, data).to_dense()
    assert (given - expected).norm() > 5 * (draws.mean(0) - expected).norm()
    many = MonteCarloFisherOperator(model, loss, data, samples=400)
    assert (many.to_dense() - expected).norm() < 4 * float(error.square().sum()) ** 0.5
    assert len(many.data[0]) == len(many.data[1]) == many.examples == 6 * 400


def test_labels_depend_on_the_seed_alone(small_case):
    _, loss, data = small_case
    state = torch.get_rng_state()
    labels = [
        MonteCarloFisherOperator(*small_case, seed=seed, chunk_size=size).data[1]
        for seed, size in ((0, None), (0, 5), (1, None))
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    confident = nn.Linear(8, 3).double()
    nn.init.zeros_(confident.weight)
    confident.bias.data = torch.tensor([0.0, 800.0, 0.0], dtype=torch.float64)  # the others have no probability at all
    assert (MonteCarloFisherOperator(confident, loss, data, samples=50).data[1] == 1).all()


def test_the_input_subspace_keeps_the_labels():
    """The eigenvalue search works on a smaller network, whose labels must not be drawn again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = torch.randn(9, 60, dtype=torch.float64), torch.arange(9) % 3
    for kind, options in ((EmpiricalFisherOperator, {}), (MonteCarloFisherOperator, {"seed": 3, "samples": 2})):
        operator = kind(model, "cross_entropy", data, **options)
        found = top_eigenvalues(operator, 2, tol=1e-9)
        torch.testing.assert_close(found.values, torch.linalg.eigvalsh(operator.to_dense())[[-1, -2]])


MIXED = Net(lambda net, x: net.layer(x) - net.layer(x).mean(0), layer=nn.Linear(8, 3))
BN = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 9.0, 1.0]))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (EmpiricalFisherOperator, {"loss": WEIGHTED}, "not the mean of each example's own"),
        (EmpiricalFisherOperator, {"data": (X, torch.tensor([0, 1, 2, 0, -100, 1]))}, "the loss of one example"),
        (EmpiricalFisherOperator, {"loss": lambda o, t: F.cross_entropy(o.log_softmax(0), t)}, "each example's own"),
        (EmpiricalFisherOperator, {"model": MIXED}, "outputs of one example depend on the others"),
        (EmpiricalFisherOperator, {"model": BN, "batch_norm": "train"}, "outputs of one example depend on the others"),
        (MonteCarloFisherOperator, {"loss": smoothed}, "cross_entropy. and .mse. only"),
        (MonteCarloFisherOperator, {"samples": 0}, "samples=0"),
        (MonteCarloFisherOperator, {"model": nn.Sequential(nn.Linear(8, 6), nn.Unflatten(1, (3, 2)))}, r"\(N, C\)"),
    ],
)
def test_what_has_no_gradient_of_one_example(kind, arguments, message):
    arguments = {"model": nn.Linear(8, 3), "loss": "cross_entropy", "data": (X, Y)} | arguments
    with pytest.raises(FlatlibError, match=message) as error:
        kind(**arguments).to_dense()
    assert "\n" not in str(error.value)


def test_weights_are_found_in_a_later_chunk():
    """Where the first chunk has one class only, weights cancel in it."""
    x, y = X, torch.tensor([0, 0, 0, 1, 0, 2])
    operator = EmpiricalFisherOperator(nn.Linear(8, 3), WEIGHTED, (x, y), chunk_size=3)
    with pytest.raises(FlatlibError, match=r"each example's own|weights or ignores"):
        operator.matvec(torch.ones(27))


def test_drawn_labels_have_no_gradient(small_case):
    with pytest.raises(FlatlibError, match="take the gradient of a HessianOperator"):
        MonteCarloFisherOperator(*small_case).gradient()
