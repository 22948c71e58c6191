"""Random architectures, losses, chunks and blocks of parameters against the dense Hessian in float64."""

from dataclasses import dataclass

import pytest
import torch
from conftest import dense_hessian
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, frobenius, top_eigenvalues
from flatlib.curvature.traces.exact import exact_traces

EXAMPLES = 7
KINKS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.Hardtanh(), nn.Identity()]
BENDS = [nn.Tanh(), nn.GELU(), nn.Softplus(), nn.Softmax(1), nn.SiLU()]


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
    activation: nn.Module
    kernel: int | tuple[int, int]
    stride: int
    dilation: int
    grouped: bool
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
            groups = before if self.grouped and width == before else 1
            layers.append(nn.Conv2d(before, width, self.kernel, self.stride, 1, self.dilation, groups, self.bias))
            layers += self._norm(width)
            layers.append(self.activation)
            if self.residual:
                layers.append(Residual(nn.Conv2d(width, width, 1, groups=width, bias=self.bias)))
            before = width
        pools = {"max": [nn.MaxPool2d(2)], "mean": [nn.AvgPool2d(2)], "none": []}
        return [*layers, *pools[self.pool], nn.Flatten()]

    def _linear(self) -> list[nn.Module]:
        layers, before = [], 4
        for width in self.channels:
            layers += [nn.Linear(before, width, bias=self.bias), *self._norm(width), self.activation]
            if self.residual:
                layers.append(Residual(nn.Sequential(nn.Linear(width, width), self.activation)))
            before = width
        return layers


architectures = st.builds(
    Architecture,
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
    found = exact_traces(operator)
    assert (found is not None) == (architecture.activation in KINKS and architecture.norm != "group")
    if found is not None:
        blocks = dense.diagonal().split([p.numel() for p in operator.parameters.values()])
        expected = torch.stack([block.sum() for block in blocks])
        found = torch.tensor(list(found.values()), dtype=torch.float64)
        assert (found - expected).abs().max() <= 1e-10 * dense.diagonal().abs().sum()
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
    smooth = nn.Tanh() if architecture.activation in KINKS else architecture.activation
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
