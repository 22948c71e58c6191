"""Batch sharpness against dense Hessians of every batch, critical sharpness against parabolas."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from conftest import Net, dense_hessian, mean_output
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.errors import FlatlibError, NotDefined
from flatlib.sharpness import batch_sharpness, critical_sharpness


def along_gradient(model, loss, x, y):
    """g'Hg / g'g of one batch, from its dense Hessian."""
    H = dense_hessian(model, loss, (x, y))
    g = HessianOperator(model, loss, (x, y)).gradient()
    return float(g @ H @ g / (g @ g))


def test_all_batches_of_a_small_data_set():
    """The mean over all 28 pairs, within the errors of 60 random pairs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    x, y = torch.randn(8, 8, dtype=torch.float64), torch.arange(8) % 3
    pairs = [list(pair) for pair in itertools.combinations(range(8), 2)]
    values = np.array([along_gradient(model, "cross_entropy", x[pair], y[pair]) for pair in pairs])
    found = [batch_sharpness(model, "cross_entropy", (x, y), batch_size=2, batches=60, seed=s) for s in range(40)]
    covered = sum(abs(one.value - values.mean()) <= 2 * one.standard_error for one in found) / 40
    assert covered >= 0.85
    assert np.mean([one.value for one in found]) == pytest.approx(values.mean(), abs=4 * values.std() / (2400**0.5))
    assert found[0].standard_error == pytest.approx(values.std() / 60**0.5, rel=0.4)
    assert (found[0].exact, found[0].products) == (False, 60)


def test_all_examples_as_one_batch(case):
    found = batch_sharpness(*case, batch_size=23, chunk_size=9)
    assert found.value == pytest.approx(along_gradient(case.model, case.loss, *case.data), rel=1e-9)
    assert (found.exact, found.standard_error) == (True, 0.0)
    assert found.value <= float(torch.linalg.eigvalsh(case.dense())[-1])


def test_the_seed_alone_is_random(small_case):
    state = torch.get_rng_state()
    first, again, other = (batch_sharpness(*small_case, batch_size=5, batches=4, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_of_every_batch():
    """In train mode a batch has its own statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    x, y = torch.randn(9, 8, dtype=torch.float64), torch.arange(9) % 3
    found = batch_sharpness(model, "cross_entropy", (x, y), batch_size=4, batches=2, batch_norm="train")
    generator = torch.Generator().manual_seed(0)
    expected = []
    for _ in range(2):
        chosen = torch.randperm(9, generator=generator)[:4]
        H = HessianOperator(model, "cross_entropy", (x[chosen], y[chosen]), batch_norm="train")
        g = H.gradient()
        expected.append(float(g @ H.matvec(g) / (g @ g)))
    assert found.value == pytest.approx(np.mean(expected), rel=1e-9)


class Cube(Function):
    """Its second derivative is lost."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad.detach() * ctx.saved_tensors[0].detach() ** 2


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        (nn.Linear(4, 3), {"batch_size": 0}, FlatlibError, "batch_size=0 is not between 1 and the 6"),
        (nn.Linear(4, 3), {"batch_size": 7}, FlatlibError, "batch_size=7 is not between 1 and the 6"),
        (nn.Linear(4, 3), {"batch_size": 2, "batches": 1}, FlatlibError, "at least 2"),
        (Net(lambda net, x: net.a(x) * 0, a=nn.Linear(4, 3)), {"batch_size": 2}, NotDefined, "gradient of a batch"),
        (Net(lambda net, x: net.b(Cube.apply(net.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 3)), {"batch_size": 6},
         FlatlibError, "a product is not the derivative of the gradient"),
    ],
)  # fmt: skip
def test_batches_without_a_sharpness(model, options, kind, message):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p)
    x = torch.linspace(-1, 1, 24).sin().reshape(6, 4)
    with pytest.raises(kind, match=message):
        batch_sharpness(model, "cross_entropy", (x, torch.arange(6) % 3), **options)


SPECTRUM = [5.0, 2.0, 1.0, -0.5]


@pytest.mark.parametrize("start", [None, 1e-6, 1e6])
@pytest.mark.parametrize("tolerance", [1 / 16, 1e-6])
def test_critical_sharpness_of_a_quadratic(quadratic, start, tolerance):
    """It is d'Hd / d'g, and the interval holds it."""
    model, loss, data = quadratic(SPECTRUM)
    H, w = model.matrix, model.weight.detach()
    g = H @ w
    for direction in (None, torch.tensor([1.0, 0.5, 0.0, 0.2], dtype=torch.float64)):
        d = g if direction is None else direction
        true = float(d @ H @ d / (d @ g))
        found = critical_sharpness(model, loss, data, direction=direction, start=start, tolerance=tolerance)
        assert abs(found.value - true) <= found.error * (1 + 1e-12)
        assert found.error <= 0.6 * tolerance * found.value
        assert found.lower_bound <= true * (1 + 1e-12)
        low, high = found.learning_rates
        assert 1 - low / high <= tolerance
    assert found.value > 0


def test_the_interval_holds_the_crossing(case):
    """Also without second derivatives, on networks: at its ends the loss is what it says."""
    found = critical_sharpness(*case, tolerance=1e-3, chunk_size=7)
    model = case.model.eval()
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    gradient = HessianOperator(*case).gradient()
    losses = []
    for rate in (0.0, *found.learning_rates):
        nn.utils.vector_to_parameters(weights - rate * gradient, model.parameters())
        target = case.data[1] if case.loss == "cross_entropy" else F.one_hot(case.data[1], 3).double()
        value = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}[case.loss](model(case.data[0]), target)
        losses.append(float(value.detach()))
    assert losses[1] <= losses[0] < losses[2]


def test_it_needs_few_losses_and_no_second_derivative(small_case):
    model = nn.Sequential(small_case.model, Net(lambda net, x: Cube.apply(x)))
    found = critical_sharpness(model, "cross_entropy", small_case.data)
    assert found.evaluations <= 12
    again = critical_sharpness(model, "cross_entropy", small_case.data, start=sum(found.learning_rates) / 2)
    assert again.evaluations <= 8
    assert again.value == pytest.approx(found.value, rel=1 / 8)


def test_at_most_the_largest_eigenvalue_nearby(small_case):
    """Close to the start of training, where the loss is nearly a parabola over one step."""
    critical = critical_sharpness(*small_case, tolerance=1e-3)
    largest = float(top_eigenvalues(HessianOperator(*small_case)).values[0])
    assert 0 < critical.value < 1.2 * largest


def exponential(output, target):
    """Falls for ever."""
    return (-output.mean()).exp()


def wall(output, target):
    """Not finite beyond a point."""
    return output.mean() ** 2 + 0 * (3 - output.mean()).log()


@pytest.mark.parametrize(
    ("loss", "weight", "options", "kind", "message"),
    [
        (mean_output, 0.0, {"direction": torch.tensor([-1.0])}, NotDefined, "does not fall along the direction"),
        (lambda o, t: 0 * o.mean() + 1, 1.0, {}, NotDefined, "does not fall along the direction"),
        (exponential, 1.0, {}, NotDefined, "crosses its present value nowhere"),
        (lambda o, t: 1e9 + o.mean() ** 2, 1.0, {}, NotDefined, "less than its rounding|nowhere"),
        (mean_output, 0.0, {"direction": torch.ones(2)}, FlatlibError, "direction must be 1"),
        (mean_output, 0.0, {"direction": torch.tensor([torch.inf])}, FlatlibError, "direction must be 1"),
        (mean_output, 0.0, {"tolerance": 0.0}, FlatlibError, "tolerance=0.0"),
        (mean_output, 0.0, {"start": -1.0}, FlatlibError, "start=-1.0"),
    ],
)
def test_no_critical_learning_rate(loss, weight, options, kind, message):
    model = Net(lambda net, x: net.weight.expand(len(x), 1), weight=nn.Parameter(torch.tensor([weight])))
    with pytest.raises(kind, match=message):
        critical_sharpness(model, loss, (torch.zeros(3, 1), torch.zeros(3)), **options)


def test_a_loss_that_is_not_finite_has_risen():
    model = Net(lambda net, x: net.weight.expand(len(x), 1), weight=nn.Parameter(torch.tensor([-1.0])))
    found = critical_sharpness(model, wall, (torch.zeros(3, 1), torch.zeros(3)), tolerance=1e-3)
    assert found.value == pytest.approx(2.0, abs=found.error * 1.001)  # from -1 to 1, before the wall at 3
