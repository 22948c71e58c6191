"""Input curvature against the dense Hessian of every example's loss in its input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from conftest import Net
from flatlib.errors import FlatlibError, NotDefined
from flatlib.losses import resolve_loss
from flatlib.sharpness import input_lambda_max


def dense(model, loss, x, y):
    """The largest eigenvalue of each example's Hessian, from the derivatives of the gradient, row by row."""
    model.eval()
    values = []
    for one, its in zip(x.split(1), y.split(1), strict=True):
        with sdpa_kernel(SDPBackend.MATH):
            H = torch.autograd.functional.hessian(lambda z, t=its: resolve_loss(loss)(model(z), t), one)
        values.append(torch.linalg.eigvalsh(H.reshape(one.numel(), one.numel()))[-1])
    return torch.stack(values)


def smoothed(output, target):
    """A callable that flatlib does not know."""
    return F.cross_entropy(output, target, label_smoothing=0.2)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("known", [True, False])
def test_agrees_with_dense_hessians(case, known, chunk_size):
    model, loss, (x, y) = case
    loss = loss if known else smoothed
    found = input_lambda_max(model, loss, (x, y), tol=1e-8, chunk_size=chunk_size)
    expected = dense(model, loss, x, y)
    assert found.converged
    torch.testing.assert_close(found.values, expected, rtol=1e-8, atol=1e-12)
    assert found.products <= 8


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images(activation, dtype):
    """Of more pixels than products; a ReLU network's Hessian has the rank of its outputs."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3, padding=1), activation(), nn.Conv2d(6, 4, 3, stride=2), activation()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5)).to(dtype)
    x, y = torch.randn(7, 2, 8, 8, dtype=dtype), torch.arange(7) % 5
    found = input_lambda_max(model, "cross_entropy", (x, y), tol=1e-4)
    expected = dense(model.double(), "cross_entropy", x.double(), y)
    assert found.converged
    assert found.products <= (8 if activation is nn.ReLU else 40)
    assert ((found.values - expected).abs() <= found.residuals + 1e-6 * expected.abs()).all()
    assert (found.residuals <= 1e-4 * found.values + 1e-6).all()
    torch.testing.assert_close(found.values, expected, rtol=2e-4, atol=1e-6)


def test_parts_of_the_examples(small_case, monkeypatch):
    whole = input_lambda_max(*small_case, tol=1e-10)
    monkeypatch.setattr("flatlib.sharpness.input_curvature.MEMORY", 3 * 32 * 8 * 8)
    torch.testing.assert_close(input_lambda_max(*small_case, tol=1e-10).values, whole.values)


def test_negative_and_degenerate_curvature():
    """The largest by sign, where a start sees every eigenvector only after the space is exhausted."""
    scale = torch.tensor([-1.0, -1.0, -1.0, -2.0, -5.0], dtype=torch.float64)
    model = Net(lambda net, x: (net.scale * x**2).sum(1, keepdim=True) + net.bias, scale=scale, bias=nn.Parameter(
        torch.zeros(1, dtype=torch.float64)))  # fmt: skip
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    found = input_lambda_max(model, lambda output, target: output.mean(), (x, torch.zeros(3)))
    torch.testing.assert_close(found.values, torch.full((3,), -2.0, dtype=torch.float64))
    assert found.converged


def test_no_curvature():
    model, x = nn.Linear(4, 1), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = input_lambda_max(model, lambda output, target: output.mean(), (x, torch.zeros(3)))
    assert (found.values.tolist(), found.residuals.tolist(), found.converged) == ([0.0] * 3, [0.0] * 3, True)
    constant = Net(lambda net, x: net.weight.expand(len(x), 2), weight=nn.Parameter(torch.ones(2)))
    assert not input_lambda_max(constant, "cross_entropy", (x, torch.zeros(3, dtype=torch.long))).values.any()


def test_a_limit_of_products(case):
    found = input_lambda_max(*case, max_products=2, tol=1e-12)
    assert (found.products, found.converged) == (2, False)
    expected = dense(case.model, case.loss, *case.data)
    assert (found.values <= expected + 1e-12).all()


class Cube(Function):
    """It has no second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
MIXED = Net(lambda net, x: net.layer(x) - net.layer(x).mean(0), layer=nn.Linear(8, 3))
BN = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
WORDS = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
ONCE = Net(lambda net, x: net.b(Cube.apply(net.a(x))), a=nn.Linear(8, 5), b=nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"model": WORDS, "data": (torch.ones(6, 2, dtype=torch.long), Y)},
            NotDefined,
            "no tensor of floating-point numbers",
        ),
        ({"model": MIXED}, NotDefined, "outputs of one example depend on the others"),
        ({"model": BN, "batch_norm": "train"}, NotDefined, "outputs of one example depend on the others"),
        ({"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 9.0, 1.0]))}, NotDefined, "each example's own"),
        ({"model": ONCE}, FlatlibError, "no second derivative"),
        ({"tol": 0.0}, FlatlibError, "tol=0.0"),
        ({"max_products": 0}, FlatlibError, "max_products=0"),
    ],
)
def test_what_has_no_input_curvature(arguments, kind, message):
    torch.manual_seed(0)
    arguments = {"model": nn.Linear(8, 3), "loss": "cross_entropy", "data": (X, Y)} | arguments
    for p in arguments["model"].parameters():
        nn.init.normal_(p)
    with pytest.raises(kind, match=message) as error:
        input_lambda_max(**arguments)
    assert "\n" not in str(error.value)
