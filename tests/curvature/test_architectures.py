"""Random architectures, losses, chunks and blocks of parameters against the dense Hessian in float64."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import Net, dense_hessian
from flatlib.curvature import GaussNewtonOperator, HessianOperator, frobenius, top_eigenvalues
from flatlib.curvature.traces.exact import exact_traces

EXAMPLES = 7
KINKS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.Hardtanh(), nn.Identity()]
BENDS = [nn.Tanh(), nn.GELU(), nn.Softplus(), nn.Softmax(1), nn.SiLU()]


def correlation(output: Tensor, target: Tensor) -> Tensor:
    """A loss of one's own that is not convex."""
    return -(output.softmax(1)[:, 0] * torch.cos(output).sum(1)).mean()


LOSSES = {"cross_entropy": "cross_entropy", "mse": "mse", "own": correlation}


def residual(inner: nn.Module) -> nn.Module:
    return Net(lambda net, x: x + net.inner(x), inner=inner)


def norm(drawn: SimpleNamespace, width: int) -> list[nn.Module]:
    batch = nn.BatchNorm2d if drawn.images else nn.BatchNorm1d
    return {"batch": [batch(width)], "group": [nn.GroupNorm(1, width)], "none": []}[drawn.norm]


def convolutional(drawn: SimpleNamespace) -> list[nn.Module]:
    layers, before = [], 2
    for width in drawn.channels:
        groups = before if drawn.grouped and width == before else 1
        layers.append(nn.Conv2d(before, width, drawn.kernel, drawn.stride, 1, drawn.dilation, groups, drawn.bias))
        layers += [*norm(drawn, width), drawn.activation]
        if drawn.residual:
            layers.append(residual(nn.Conv2d(width, width, 1, groups=width, bias=drawn.bias)))
        before = width
    pools = {"max": [nn.MaxPool2d(2)], "mean": [nn.AvgPool2d(2)], "none": []}
    return [*layers, *pools[drawn.pool], nn.Flatten()]


def linear(drawn: SimpleNamespace) -> list[nn.Module]:
    layers, before = [], 4
    for width in drawn.channels:
        layers += [nn.Linear(before, width, bias=drawn.bias), *norm(drawn, width), drawn.activation]
        if drawn.residual:
            layers.append(residual(nn.Sequential(nn.Linear(width, width), drawn.activation)))
        before = width
    return layers


def build(drawn: SimpleNamespace) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the network, in double precision and away from its initial values, and its data."""
    torch.manual_seed(drawn.seed)
    layers = convolutional(drawn) if drawn.images else linear(drawn)
    model = nn.Sequential(*layers, nn.Dropout(0.5), nn.LazyLinear(3)).double()
    x = torch.randn(EXAMPLES, 2, 5, 5) if drawn.images else torch.randn(EXAMPLES, 4)
    model(x.double())  # sets the lazy layer, and running statistics away from where they start
    for p in model.parameters():
        nn.init.normal_(p, std=0.6)
    return model, (x.double(), torch.arange(EXAMPLES) % 3)


architectures = st.builds(
    SimpleNamespace,
    images=st.booleans(),
    channels=st.lists(st.integers(2, 3), min_size=1, max_size=2).map(tuple),
    activation=st.sampled_from(KINKS + BENDS),
    kernel=st.sampled_from([2, (2, 1)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    grouped=st.booleans(),
    norm=st.sampled_from(["batch", "group", "none"]),
    residual=st.booleans(),
    pool=st.sampled_from(["max", "mean", "none"]),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
chunk_sizes = st.sampled_from([2, 5, EXAMPLES])
# The draws are the same every time. Shrinking a failure would take minutes: an architecture is drawn whole.
reproducible = settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@reproducible
@given(architectures, st.sampled_from(sorted(LOSSES)), chunk_sizes, st.randoms(use_true_random=False))
def test_products_eigenvalues_and_blocks(architecture, loss, chunk_size, random):
    model, data = build(architecture)
    dense = dense_hessian(model, LOSSES[loss], data)
    scale = dense.norm()
    operator = HessianOperator(model, LOSSES[loss], data, chunk_size=chunk_size)
    assert (operator.to_dense() - dense).norm() <= 1e-10 * scale

    spectrum = torch.linalg.eigvalsh(dense)
    found = top_eigenvalues(operator, which="both", tol=1e-9, start="random")
    assert found.converged
    torch.testing.assert_close(found.values, spectrum[[-1, 0]], rtol=1e-6, atol=1e-6 * float(spectrum.abs().max()))

    names = [name for name, _ in model.named_parameters() if random.random() < 0.5] or ["*"]
    block = HessianOperator(model, LOSSES[loss], data, parameters=names)
    chosen = torch.cat([torch.full((p.numel(),), name in block.parameters) for name, p in model.named_parameters()])
    assert (block.to_dense() - dense[chosen][:, chosen]).norm() <= 1e-10 * scale


@reproducible
@given(architectures, st.sampled_from(sorted(LOSSES)), chunk_sizes)
def test_exact_traces_and_norms(architecture, loss, chunk_size):
    model, data = build(architecture)
    dense = dense_hessian(model, LOSSES[loss], data)
    operator = HessianOperator(model, LOSSES[loss], data, chunk_size=chunk_size)
    found = exact_traces(operator)
    assert (found is not None) == (architecture.activation in KINKS and architecture.norm != "group")
    if found is not None:
        blocks = dense.diagonal().split([p.numel() for p in operator.parameters.values()])
        expected = torch.stack([block.sum() for block in blocks])
        found = torch.tensor(list(found.values()), dtype=torch.float64)
        assert (found - expected).abs().max() <= 1e-10 * dense.diagonal().abs().sum()
    whole = frobenius(operator, probes=len(dense))  # not more than rows, so that it measures every column
    assert whole.exact
    assert whole.value == pytest.approx(float(dense.norm()), rel=1e-10)


@reproducible
@given(architectures, st.sampled_from(["cross_entropy", "mse"]), chunk_sizes)
def test_gauss_newton_in_the_last_layer(architecture, loss, chunk_size):
    """In the weights of the last layer, in which every network is linear, the two are the same; everywhere the
    Gauss-Newton matrix is positive."""
    model, data = build(architecture)
    last = {"parameters": f"{len(model) - 1}.*", "chunk_size": chunk_size}
    pair = [kind(model, loss, data, **last).to_dense() for kind in (GaussNewtonOperator, HessianOperator)]
    assert (pair[0] - pair[1]).norm() <= 1e-10 * pair[1].norm()
    spectrum = torch.linalg.eigvalsh(GaussNewtonOperator(model, loss, data, chunk_size=chunk_size).to_dense())
    assert spectrum[0] >= -1e-10 * spectrum[-1]


@reproducible
@given(architectures.filter(lambda a: a.norm == "batch"), st.sampled_from(sorted(LOSSES)))
def test_train_mode_batch_norm(architecture, loss):
    """torch.func.hessian is wrong there. Smooth activations only: a difference may step over a kink."""
    drawn = SimpleNamespace(**vars(architecture))
    drawn.activation = nn.Tanh() if architecture.activation in KINKS else architecture.activation
    drawn.pool = "mean" if architecture.pool == "max" else architecture.pool
    model, data = build(drawn)
    operator = HessianOperator(model, LOSSES[loss], data, batch_norm="train")
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    generator = torch.Generator().manual_seed(architecture.seed)
    v = torch.randn(len(flat), generator=generator, dtype=torch.float64)

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, model.parameters())
        return HessianOperator(model, LOSSES[loss], data, batch_norm="train").gradient()

    def difference(step: float) -> Tensor:
        return (gradient(flat + step * v) - gradient(flat - step * v)) / (2 * step)

    product = operator.matvec(v)
    # Richardson's extrapolation, without which the differences are the larger error.
    expected = (4 * difference(1e-4) - difference(2e-4)) / 3
    assert (product - expected).norm() <= 1e-6 * max(product.norm(), operator.gradient().norm())
