"""Random architectures, losses, chunks and blocks of parameters against the dense Hessian in float64."""

from dataclasses import dataclass

import pytest
import torch
from conftest import dense_hessian
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, frobenius, top_eigenvalues, trace
from flatlib.curvature.traces.exact import exact_traces

EXAMPLES = 7
ACTIVATIONS = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus}
PIECEWISE_LINEAR = ("relu", "leaky")


def correlation(output: Tensor, target: Tensor) -> Tensor:
    """A loss of one's own that is not convex."""
    return -(output.softmax(1)[:, 0] * torch.cos(output).sum(1)).mean()


LOSSES = {"cross_entropy": "cross_entropy", "mse": "mse", "own": correlation}


class Residual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@dataclass(frozen=True)
class Architecture:
    """What is drawn: the layers by name, and the numbers they take."""

    images: bool
    channels: tuple[int, ...]
    activation: str
    norm: str
    residual: bool
    pool: str
    bias: bool
    seed: int

    def build(self) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        torch.manual_seed(self.seed)
        layers = self._convolutional() if self.images else self._linear()
        model = nn.Sequential(*layers, nn.Dropout(0.5), nn.LazyLinear(3)).double()
        x = torch.randn(EXAMPLES, 2, 5, 5) if self.images else torch.randn(EXAMPLES, 4)
        model(x.double())  # sets the lazy layer, and running statistics away from where they start
        for p in model.parameters():
            nn.init.normal_(p, std=0.6)
        return model, (x.double(), torch.arange(EXAMPLES) % 3)

    def _norm(self, width: int) -> list[nn.Module]:
        batch = nn.BatchNorm2d if self.images else nn.BatchNorm1d
        return {"batch": [batch(width)], "group": [nn.GroupNorm(1, width)], "none": []}[self.norm]

    def _convolutional(self) -> list[nn.Module]:
        layers, before = [], 2
        for width in self.channels:
            layers += [nn.Conv2d(before, width, 2, stride=2, padding=1, bias=self.bias), *self._norm(width)]
            layers.append(ACTIVATIONS[self.activation]())
            if self.residual:
                layers.append(Residual(nn.Conv2d(width, width, 1, groups=width, bias=self.bias)))
            before = width
        pools = {"max": [nn.MaxPool2d(2)], "mean": [nn.AvgPool2d(2)], "none": []}
        return [*layers, *pools[self.pool], nn.Flatten()]

    def _linear(self) -> list[nn.Module]:
        layers, before = [], 4
        for width in self.channels:
            layers += [nn.Linear(before, width, bias=self.bias), *self._norm(width), ACTIVATIONS[self.activation]()]
            if self.residual:
                layers.append(Residual(nn.Sequential(nn.Linear(width, width), ACTIVATIONS[self.activation]())))
            before = width
        return layers


architectures = st.builds(
    Architecture,
    images=st.booleans(),
    channels=st.lists(st.integers(2, 3), min_size=1, max_size=2).map(tuple),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
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
    model, data = architecture.build()
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
    model, data = architecture.build()
    dense = dense_hessian(model, LOSSES[loss], data)
    operator = HessianOperator(model, LOSSES[loss], data, chunk_size=chunk_size)
    found = trace(operator)
    if found.exact:
        assert abs(found.value - float(dense.trace())) <= 1e-10 * float(dense.diagonal().abs().sum())
    assert found.exact <= (architecture.norm != "group")
    if architecture.activation in PIECEWISE_LINEAR and architecture.norm != "group":
        assert found.exact
    norm = frobenius(operator, probes=len(dense))  # not more than rows, so that it measures every column
    assert norm.exact
    assert norm.value == pytest.approx(float(dense.norm()), rel=1e-10)


@reproducible
@given(architectures, st.sampled_from(["cross_entropy", "mse"]), chunk_sizes)
def test_gauss_newton_in_the_last_layer(architecture, loss, chunk_size):
    """In the weights of the last layer, in which every network is linear, the two are the same; everywhere the
    Gauss-Newton matrix is positive."""
    model, data = architecture.build()
    last = {"parameters": f"{len(model) - 1}.*", "chunk_size": chunk_size}
    pair = [kind(model, loss, data, **last).to_dense() for kind in (GaussNewtonOperator, HessianOperator)]
    assert (pair[0] - pair[1]).norm() <= 1e-10 * pair[1].norm()
    spectrum = torch.linalg.eigvalsh(GaussNewtonOperator(model, loss, data, chunk_size=chunk_size).to_dense())
    assert spectrum[0] >= -1e-10 * spectrum[-1]


@reproducible
@given(architectures.filter(lambda a: a.norm == "batch"), st.sampled_from(sorted(LOSSES)))
def test_train_mode_batch_norm(architecture, loss):
    """torch.func.hessian is wrong there. Smooth activations only: a difference may step over a kink."""
    smooth = "tanh" if architecture.activation in PIECEWISE_LINEAR else architecture.activation
    no_kinks = {"activation": smooth, "pool": "mean" if architecture.pool == "max" else architecture.pool}
    model, data = Architecture(**architecture.__dict__ | no_kinks).build()
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


KINKS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.Hardtanh(), nn.Identity(), nn.Dropout(0.5)]
BENDS = [nn.Tanh(), nn.GELU(), nn.Softplus(), nn.Softmax(1), nn.Hardswish(), nn.LayerNorm(4)]
POOLS = [nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, padding=1)]


@st.composite
def networks(draw):
    """A random network on (2, 6, 6), and whether it is piecewise linear in every parameter."""
    channels, layers = 2, []
    for _ in range(draw(st.integers(0, 2))):
        width, groups = channels * draw(st.integers(1, 2)), draw(st.sampled_from([1, channels]))
        kernel, stride = draw(st.sampled_from([1, (2, 1), 2])), draw(st.integers(1, 2))
        padding, dilation, bias = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.booleans())
        layers.append(nn.Conv2d(channels, width, kernel, stride, padding, dilation, groups, bias))
        channels = width
        layers += [nn.BatchNorm2d(channels)] if draw(st.booleans()) else []
        layers.append(draw(st.sampled_from(KINKS)))
    layers += [draw(st.sampled_from(POOLS)), nn.Flatten()]
    features = nn.Sequential(*layers)(torch.zeros(2, 2, 6, 6)).shape[1]
    layers += [nn.Linear(features, 4)] + ([nn.BatchNorm1d(4)] if draw(st.booleans()) else [])
    bent = draw(st.booleans())
    layers += [draw(st.sampled_from(KINKS)), *([draw(st.sampled_from(BENDS))] if bent else [])]
    return nn.Sequential(*layers, nn.Linear(4, 3, bias=draw(st.booleans()))), not bent


@reproducible
@given(networks(), st.sampled_from(["cross_entropy", "mse", nn.CrossEntropyLoss(label_smoothing=0.1)]), chunk_sizes)
def test_exact_traces_of_layers(network, loss, chunk_size):
    torch.manual_seed(0)
    model = network[0].double()
    data = torch.randn(EXAMPLES, 2, 6, 6, dtype=torch.float64), torch.arange(EXAMPLES) % 3
    model(data[0])
    operator = HessianOperator(model, loss, data, chunk_size=chunk_size)
    traces = exact_traces(operator)
    assert (traces is not None) == network[1]
    if traces is not None:
        diagonal = operator.to_dense().diagonal().split([p.numel() for p in operator.parameters.values()])
        expected = torch.stack([part.sum() for part in diagonal])
        found = torch.tensor(list(traces.values()), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
