import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from conftest import Net, mean_output
from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError, NotDefined
from flatlib.sharpness import adaptive_sharpness, average_adaptive_sharpness, keskar_sharpness, sam_sharpness
from flatlib.sharpness.perturbed_loss import PerturbedLoss
from flatlib.sharpness.rescaling import chain_of_layers, rescale

SPECTRUM = [5.0, 2.0, 1.0, -1.0]


def valley(weight, curvature=(4.0, 1.0, 0.5), offset=0.0):
    """Output (N, 1) with the mean $c + \\sum_i h_i w_i^2 / 2$: rises in boxes are known coordinate by coordinate."""
    weight, curvature = (torch.tensor(values, dtype=torch.float64) for values in (weight, curvature))
    return Net(
        lambda net, x: (offset + 0.5 * (net.curvature * net.weight**2).sum()).expand(len(x), 1),
        **{"weight": nn.Parameter(weight), "curvature": curvature},
    )


DATA = (torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4))


def largest_rise(matrix, gradient, radius):
    """max over the ball of <g, e> + e'Me/2 on its surface, from the secular equation."""
    values, vectors = np.linalg.eigh(matrix)
    g = vectors.T @ gradient

    def excess(nu):
        return np.linalg.norm(g / (nu - values)) - radius

    nu = brentq(excess, values[-1] + 1e-9, values[-1] + 1e6, xtol=1e-13)
    e = g / (nu - values)
    return float(g @ e + 0.5 * e @ (values * e))


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_sam_on_a_quadratic(quadratic, rho):
    model, loss, data = quadratic(SPECTRUM)
    H = model.matrix
    g = H.sum(1)
    step = rho * g / g.norm()
    found = sam_sharpness(model, loss, data, rho=rho)
    assert found.value == pytest.approx(float(g @ step + 0.5 * step @ H @ step), rel=1e-12)
    assert found.loss == pytest.approx(float(0.5 * H.sum()), rel=1e-12)
    torch.testing.assert_close(found.perturbation, step)
    there = g + H @ step
    assert found.alignment == pytest.approx(float(there @ step / there.norm() / rho))


def test_sam_agrees_with_the_loss(case):
    found = sam_sharpness(*case, chunk_size=7)
    whole = PerturbedLoss(HessianOperator(*case))
    assert float(found.perturbation.norm()) == pytest.approx(0.05)
    nn.utils.vector_to_parameters(whole.weights + found.perturbation, case.model.parameters())
    moved = PerturbedLoss(HessianOperator(*case)).loss()
    assert found.value == pytest.approx(moved - whole.loss(), rel=1e-9)


@pytest.mark.parametrize("rho", [0.1, 0.7])
def test_adaptive_reaches_the_maximum(quadratic, rho):
    """At unit weights the ball is round; beside a convex loss the ascent reaches the largest rise."""
    model, loss, data = quadratic([5.0, 2.0, 1.0, 0.3])
    H = model.matrix.numpy()
    largest = largest_rise(H, H.sum(1), rho)
    found = adaptive_sharpness(model, loss, data, rho=rho, steps=100, tolerance=1e-9)
    assert found.value == pytest.approx(largest, rel=1e-6)
    assert found.alignment > 1 - 1e-5
    for tolerance in (1e-1, 1e-2, 1e-3):
        early = adaptive_sharpness(model, loss, data, rho=rho, tolerance=tolerance)
        assert early.frank_wolfe_gap <= tolerance * early.value
        assert 0 < largest - early.value <= 3 * early.frank_wolfe_gap
        assert early.evaluations < found.evaluations
    first = adaptive_sharpness(model, loss, data, rho=rho, steps=1)
    assert first.value == pytest.approx(sam_sharpness(model, loss, data, rho=rho).value)
    assert first.value <= found.value
    assert (first.evaluations, found.evaluations <= 101) == (2, True)


def test_adaptive_starts_with_asam(quadratic):
    model, loss, data = quadratic(SPECTRUM)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    T = model.weight.detach().abs() + 0.01
    g = model.matrix @ model.weight.detach()
    found = adaptive_sharpness(model, loss, data, rho=0.5, eta=0.01, steps=1)
    torch.testing.assert_close(found.perturbation, 0.5 * T**2 * g / (T * g).norm())


def test_adaptive_at_a_minimum():
    """Zero gradient: half rho^2 times the largest eigenvalue of T H T, up to the ascent's own tolerance."""
    weight = nn.Parameter(torch.tensor([2.0, 0.5], dtype=torch.float64))
    product = Net(lambda net, x: ((net.weight.prod() - 1) ** 2).expand(len(x), 1), weight=weight)
    found = adaptive_sharpness(product, mean_output, DATA, rho=1e-3, steps=100)
    # H = 2 [b^2, 1; 1, a^2] at ab = 1, so T H T = 2 [1, 1; 1, 1] with the largest eigenvalue 4
    assert found.value == pytest.approx(0.5 * 1e-6 * 4, rel=2e-3)


def test_adaptive_ignores_rescaling(case):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    before = adaptive_sharpness(model, case.loss, case.data, rho=0.1).value
    rescale(model, chain_of_layers(model), np.array([4.0, 0.25]))
    assert adaptive_sharpness(model, case.loss, case.data, rho=0.1).value == pytest.approx(before, rel=1e-10)
    assert sam_sharpness(model, case.loss, case.data).value > 0


@pytest.mark.parametrize("weight", [(0.5, -2.0, 0.0), (0.0, 0.0, 0.0)])
def test_keskar_on_a_quadratic(weight):
    """Each coordinate goes to the corner further from the valley: h (|w| + e (|w| + 1))^2 / 2."""
    model = valley(weight, offset=1.5)
    found = keskar_sharpness(model, mean_output, DATA, epsilon=0.01, iterations=50)
    w, h = np.abs(weight), np.array([4.0, 1.0, 0.5])
    base = 1.5 + 0.5 * np.sum(h * w**2)
    rise = 0.5 * np.sum(h * ((w + 0.01 * (w + 1)) ** 2 - w**2))
    assert found.value == pytest.approx(100 * rise / (1 + base), rel=1e-9)
    assert (found.perturbation.abs().numpy() <= 0.01 * (w + 1) * (1 + 1e-12)).all()
    assert found.loss == pytest.approx(base)
    assert found.value == pytest.approx(100 * (found.perturbed_loss - found.loss) / (1 + base))


@pytest.mark.parametrize("epsilon", [1e-2, 0.5])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_keskar_reaches_the_first_corner(small_case, scale, epsilon):
    def loss(output, target):
        return scale * nn.functional.cross_entropy(output, target)

    found = keskar_sharpness(small_case.model, loss, small_case.data, epsilon=epsilon)
    around = PerturbedLoss(HessianOperator(small_case.model, loss, small_case.data))
    half = epsilon * (around.weights.abs() + 1)
    base, gradient = around.loss_and_gradient()
    corner = around.loss(half * gradient.sign()) - base
    assert found.perturbed_loss - base >= corner * (1 - 1e-12)
    assert (found.perturbation.abs() <= half * (1 + 1e-12)).all()
    assert around.loss(found.perturbation) == pytest.approx(found.perturbed_loss, rel=1e-12)


def test_keskar_in_a_subspace(small_case):
    whole = keskar_sharpness(*small_case)
    part = keskar_sharpness(*small_case, dimension=5, seed=1)
    weights = nn.utils.parameters_to_vector(small_case.model.parameters())
    A = torch.randn(len(weights), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.linalg.lstsq(A, part.perturbation[:, None])[0][:, 0]
    half = 1e-3 * ((torch.linalg.pinv(A) @ weights).abs() + 1)
    torch.testing.assert_close(A @ y, part.perturbation)
    assert (y.abs() <= half * (1 + 1e-9)).all()
    assert part.value > 0
    assert whole.converged or whole.evaluations >= 10


@pytest.mark.parametrize(
    ("measure", "weight", "arguments", "message"),
    [
        (sam_sharpness, 1.0, {"rho": 0.0}, "rho=0.0"),
        (sam_sharpness, 1.0, {"rho": float("nan")}, "rho=nan"),
        (adaptive_sharpness, 1.0, {"steps": 0}, "steps=0"),
        (adaptive_sharpness, 1.0, {"eta": -1.0}, "eta=-1.0"),
        (keskar_sharpness, 1.0, {"epsilon": -1e-3}, "epsilon=-0.001"),
        (keskar_sharpness, 1.0, {"dimension": 10**6}, "dimension=1000000"),
        (keskar_sharpness, 1.0, {"iterations": 0}, "iterations=0"),
        (sam_sharpness, 0.0, {}, "gradient is zero"),
        (adaptive_sharpness, 0.0, {}, "weights are zero"),
        (keskar_sharpness, -5.0, {}, "1 \\+ loss"),
    ],
)
def test_bad_options_and_undefined_rises(measure, weight, arguments, message):
    with pytest.raises(FlatlibError, match=message):
        measure(valley([weight, 0.0, 0.0], offset=min(weight, 0.0) * 20), mean_output, DATA, **arguments)


def inner_maximum(weight):
    """Loss 3 + sum_i sin(3 w_i): some maxima lie inside of a large box."""
    weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    return Net(lambda net, x: (3 + (3 * net.weight).sin().sum()).expand(len(x), 1), weight=weight)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_keskar_finds_maxima_inside(tolerance):
    found = keskar_sharpness(inner_maximum([0.1, 0.2, 0.0]), mean_output, DATA, epsilon=0.6, tolerance=tolerance)
    base = 3 + np.sin([0.3, 0.6, 0.0]).sum()
    largest = 100 * (6 - base) / (1 + base)  # sin(3 w) is 1 at pi / 6 = 0.52, which is less than 0.6 away
    assert found.converged
    assert found.frank_wolfe_gap <= tolerance * found.value
    assert 0 <= largest - found.value <= 2 * tolerance * largest


def test_keskar_stops_where_it_was_asked(small_case):
    def ascend(**options):
        return keskar_sharpness(*small_case, epsilon=0.5, **options)

    short, long = ascend(iterations=1), ascend(iterations=100)
    assert not short.converged
    assert long.converged
    assert short.frank_wolfe_gap > long.frank_wolfe_gap
    assert short.evaluations < long.evaluations
    assert short.value <= long.value


@pytest.mark.parametrize("measure", [sam_sharpness, adaptive_sharpness, keskar_sharpness])
def test_a_shared_start_changes_nothing(small_case, measure):
    around = PerturbedLoss(HessianOperator(*small_case))
    around.at_weights  # noqa: B018
    around.evaluated = 0
    compute = around.loss_and_gradient
    around.loss_and_gradient = lambda *moved: (setattr(around, "evaluated", around.evaluated + 1), compute(*moved))[1]
    shared, alone = measure(*small_case, around=around), measure(*small_case)
    assert shared.value == alone.value
    assert torch.equal(shared.perturbation, alone.perturbation)
    assert around.evaluated == alone.evaluations - 1


def test_flat_loss_has_no_rise():
    model = valley([1.0, 1.0, 1.0], curvature=(0.0, 0.0, 0.0), offset=1.0)
    assert adaptive_sharpness(model, mean_output, DATA).value == 0
    assert keskar_sharpness(model, mean_output, DATA).value == 0


def box_rise(model, matrix, scale, gradient, radius):
    """max over all corners of a small box: of a convex loss one of them is the maximum."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * len(scale)) * radius * scale
    return float((corners @ gradient + 0.5 * ((corners @ matrix) * corners).sum(1)).max())


@pytest.mark.parametrize("rho", [0.01, 0.3])
def test_adaptive_box_reaches_the_best_corner(quadratic, rho):
    model, loss, data = quadratic([5.0, 2.0, 1.0, 0.3])
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, -2.0, 0.1, 0.5]))
    w, H = model.weight.detach(), model.matrix
    found = adaptive_sharpness(model, loss, data, norm="linf", rho=rho, restarts=20)
    assert found.value == pytest.approx(box_rise(model, H, w.abs(), H @ w, rho), rel=1e-9)
    assert (found.perturbation.abs() <= rho * w.abs() * (1 + 1e-12)).all()
    assert found.alignment == pytest.approx(1)
    first = adaptive_sharpness(model, loss, data, norm="linf", rho=rho, steps=1)
    torch.testing.assert_close(first.perturbation, rho * w.abs() * (H @ w).sign())


def test_restarts_find_more_than_the_start_along_the_gradient():
    """From w = (1, 1) the slope points to the low hill at w_1 = 2, away from the high one at w_2 = 2."""
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def hills(net, x):
        low, high = net.weight[0] - 1, net.weight[1] - 1
        return (0.1 * low + high**2).expand(len(x), 1)

    model = Net(hills, weight=weight)
    one = adaptive_sharpness(model, mean_output, DATA, rho=1.0, steps=30)
    several = adaptive_sharpness(model, mean_output, DATA, rho=1.0, steps=30, restarts=5)
    assert one.value == pytest.approx(0.1)
    assert several.value == pytest.approx(1 + 0.1**2 / 4, rel=1e-6)
    assert several.evaluations > one.evaluations


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("normalize", [False, True])
def test_adaptive_variants_agree_with_the_loss(small_case, norm, normalize):
    """The rise is that of the loss written out at the moved weights; a factor of the outputs changes nothing."""
    model, loss, (x, y) = small_case

    @torch.no_grad()
    def written_out(net):
        z = net(x)
        if normalize:
            z = z - z.mean(1, keepdim=True)
            z = z / z.norm(dim=1, keepdim=True)
        return float(nn.functional.cross_entropy(z, y))

    options = {"norm": norm, "normalize_logits": normalize, "rho": 0.1, "chunk_size": 9}
    found = adaptive_sharpness(model, loss, (x, y), **options)
    mean = average_adaptive_sharpness(model, loss, (x, y), pairs=4, **options)
    model.eval()
    before = written_out(model)
    assert found.loss == pytest.approx(before)
    assert mean.loss == pytest.approx(before)
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(weights + found.perturbation, model.parameters())
    assert found.value == pytest.approx(written_out(model) - before, rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    rises = []
    for _ in range(4):
        draw = {"l2": torch.randn, "linf": torch.rand}[norm]
        z = draw(len(weights), generator=generator, dtype=torch.float64)
        step = 0.1 * weights.abs() * (z if norm == "l2" else 2 * z - 1)
        for sign in (1, -1):
            nn.utils.vector_to_parameters(weights + sign * step, model.parameters())
            rises.append(written_out(model) - before)
    pairs = np.reshape(rises, (4, 2)).mean(1)
    assert mean.value == pytest.approx(pairs.mean(), rel=1e-9)
    assert mean.standard_error == pytest.approx(pairs.std(ddof=1) / 2, rel=1e-6)
    assert mean.evaluations == 9


@pytest.mark.parametrize("measure", [adaptive_sharpness, average_adaptive_sharpness])
def test_normalized_logits_ignore_their_scale(measure):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    data = torch.randn(20, 8, dtype=torch.float64), torch.arange(20) % 3
    before, plain = (measure(model, "cross_entropy", data, normalize_logits=n).value for n in (True, False))
    with torch.no_grad():
        for p in model[2].parameters():
            p.mul_(7)
    assert measure(model, "cross_entropy", data, normalize_logits=True).value == pytest.approx(before, rel=1e-9)
    assert measure(model, "cross_entropy", data).value != pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize(("norm", "share"), [("l2", 1.0), ("linf", 1 / 3)])
def test_average_rise_of_a_quadratic(quadratic, norm, share):
    """Half rho^2 times the trace of T H T, exactly; errors that hold it in about 95 of 100 seeds."""
    model, loss, data = quadratic(torch.linspace(-1, 5, 40).tolist())
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-2, 1, 40))
    T = model.weight.detach().abs() + 0.01
    true = share * 0.5 * 0.3**2 * float((T**2 * model.matrix.diagonal()).sum())
    options = {"norm": norm, "rho": 0.3, "eta": 0.01, "pairs": 40}
    found = [average_adaptive_sharpness(model, loss, data, seed=seed, **options) for seed in range(100)]
    covered = sum(abs(one.value - true) <= 2 * one.standard_error for one in found) / 100
    assert 0.88 <= covered <= 0.99
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(true, abs=4 * values.std() / 10)


@pytest.mark.parametrize("measure", [adaptive_sharpness, average_adaptive_sharpness])
@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (nn.Linear(4, 1), "mse", "two classes or more"),
        (nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2))), "cross_entropy", "two classes or more"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Hardtanh(0, 0.0 + 1e-30)), "cross_entropy", "all equal"),
    ],
)
def test_logits_that_cannot_be_normalized(measure, model, loss, message):
    x = torch.linspace(-1, 1, 20).reshape(5, 4)
    target = {"mse": torch.zeros(5, 1)}.get(loss, torch.arange(5) % 3)
    if message == "all equal":
        nn.init.zeros_(model[0].weight)
        nn.init.constant_(model[0].bias, -1.0)
    elif loss == "cross_entropy":
        target = torch.zeros(5, 2, dtype=torch.long)
    with pytest.raises(NotDefined, match=message):
        measure(model, loss, (x, target), normalize_logits=True)


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        (adaptive_sharpness, {"norm": "l1"}, "norm: unknown name 'l1'; allowed: l2, linf"),
        (adaptive_sharpness, {"restarts": -1}, "restarts=-1 must not"),
        (average_adaptive_sharpness, {"norm": "l1"}, "norm: unknown name 'l1'; allowed: l2, linf"),
        (average_adaptive_sharpness, {"pairs": 1}, "at least 2"),
        (average_adaptive_sharpness, {"rho": 0.0}, "rho=0.0"),
        (average_adaptive_sharpness, {"eta": -1.0}, "eta=-1.0"),
    ],
)
def test_bad_options_of_the_variants(small_case, measure, options, message):
    with pytest.raises(FlatlibError, match=message):
        measure(*small_case, **options)
