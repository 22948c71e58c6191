import copy

import pytest
import torch
from conftest import Net, assert_untouched, snapshot
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.errors import FlatlibError
from flatlib.sharpness import jacobian_norm, jacobian_norms, most_stretched


def dense_norms(model, x, softmax):
    def outputs(sample):
        out = model(sample.unsqueeze(0)).squeeze(0)
        return out.softmax(0) if softmax else out

    with sdpa_kernel(SDPBackend.MATH):
        rows = torch.stack([torch.func.jacrev(outputs)(sample).flatten(1) for sample in x])
    return torch.linalg.matrix_norm(rows, ord=2)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("chunk_size", [100, 5])
def test_agrees_with_the_dense_jacobian(model_case, softmax, chunk_size):
    model, x = model_case.model, model_case.data[0]
    before = snapshot(model)
    norms = jacobian_norm(model, x, softmax=softmax, chunk_size=chunk_size)
    assert_untouched(model, before)
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, dense_norms(model.eval(), x, softmax), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [100, 5])
def test_both_at_once_agree_with_the_dense_jacobians(model_case, chunk_size):
    model, x = model_case.model, model_case.data[0]
    before = snapshot(model)
    found = jacobian_norms(model, x, chunk_size=chunk_size)
    assert_untouched(model, before)
    for norms, softmax in zip(found, (False, True), strict=True):
        torch.testing.assert_close(norms, dense_norms(model.eval(), x, softmax), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [0.0, 30.0])
def test_both_at_once_in_single_precision(layout, bias):
    """Also where the network is sure and the rows of all classes have much in common, which the softmax subtracts."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        layers[-1].bias[0] += bias
        layers[-1].weight += 1
    x = torch.randn(7, 3, 6, 6)
    found = jacobian_norms(layers, x.to(memory_format=layout))
    exact = copy.deepcopy(layers).double()
    for norms, softmax in zip(found, (False, True), strict=True):
        torch.testing.assert_close(norms, jacobian_norm(exact, x.double(), softmax=softmax), rtol=2e-5, atol=0)


@pytest.mark.parametrize("gap", [5.0, 30.0, 60.0, 120.0])
@pytest.mark.parametrize("forward", [lambda net, x: net.layer(x), lambda net, x: net.layer(1.0 * x)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confident_softmax_is_accurate(gap, forward, dtype):
    """Two classes: the softmaxed norm is p (1 - p) ||w_0 - w_1|| sqrt(2), though 1 - p rounds to 0 near p = 1."""
    model = Net(forward, layer=nn.Linear(3, 2)).to(dtype)
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 1.0]]))
        model.layer.bias.copy_(torch.tensor([gap, 0.0]))
    rest = torch.tensor(-gap, dtype=torch.float64).exp()
    norm = jacobian_norm(model, torch.zeros(1, 3, dtype=dtype), softmax=True)
    torch.testing.assert_close(norm[0], 2 * rest / (1 + rest) ** 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1.0, 1e30])
def test_single_precision_at_any_scale(layout, factor):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(7, 3, 6, 6)
    expected = dense_norms(copy.deepcopy(layers).double(), x.double(), False)
    model = Net(lambda net, x: factor * net.layers(x), layers=layers)
    norms = jacobian_norm(model, x.to(memory_format=layout))
    torch.testing.assert_close(norms / factor, expected, rtol=2e-6, atol=0)


def test_constant_output_has_norm_zero():
    constant = Net(lambda net, x: torch.ones(len(x), 2), layer=nn.Linear(3, 2))
    assert jacobian_norm(constant, torch.ones(4, 3)).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("model", "x", "arguments", "message"),
    [
        (nn.Linear(3, 2), torch.ones(0, 3), {}, "floating-point inputs"),
        (nn.Linear(3, 2), torch.ones(4, 3, dtype=torch.uint8), {}, "uint8"),
        (nn.Linear(3, 2), torch.ones(4, 3), {"chunk_size": 0}, "chunk_size=0"),
        (nn.Conv2d(1, 1, 1), torch.ones(4, 1, 2, 2), {}, "outputs"),
        (nn.Linear(5, 3), torch.ones(4, 8), {}, r"fails on inputs of shape \(2, 8\)"),
        (nn.LSTM(3, 2), torch.ones(4, 3), {}, r"\(N, C\), got type tuple"),
        (nn.Linear(3, 2), torch.full((4, 3), torch.inf), {}, "not finite"),
    ],
)
def test_bad_input_is_refused(model, x, arguments, message):
    for measure in (jacobian_norm, jacobian_norms):
        with pytest.raises(FlatlibError, match=message):
            measure(model, x, **arguments)


def steps(forward, width=3):
    """One linear layer, in any steps."""
    return Net(lambda net, x: forward(net.layer, x), layer=nn.Linear(8, width))


class Own(nn.Linear):
    """A linear layer only by name."""

    def forward(self, x):
        return super().forward(x) ** 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(8, 3),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Linear(4, 2), nn.Flatten()),
        lambda: steps(lambda layer, x: torch.tanh(layer(x)) + x[:, :3] ** 2),
        lambda: steps(lambda layer, x: layer(torch.tanh(layer(x))), width=8),
        lambda: Own(8, 3),
    ],
)
def test_one_linear_entrance_or_not(make):
    torch.manual_seed(0)
    model, x = make().double(), torch.randn(9, 8, dtype=torch.float64)
    torch.testing.assert_close(jacobian_norm(model, x), dense_norms(model, x, False), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softmax", [False, True])
def test_step_along_the_singular_vector(model_case, softmax):
    model, x = model_case.model.eval(), model_case.data[0]
    found = most_stretched(model, x, softmax=softmax)
    torch.testing.assert_close(found.norms, jacobian_norm(model, x, softmax=softmax), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.inputs.flatten(1).norm(dim=1), torch.ones(len(x), dtype=torch.float64))
    with torch.no_grad():
        ends = [model(x + sign * 1e-6 * found.inputs) for sign in (1, -1)]
    there, back = (end.softmax(1) if softmax else end for end in ends)
    torch.testing.assert_close((there - back) / 2e-6, found.norms[:, None] * found.outputs, rtol=1e-5, atol=1e-6)
    assert (found.outputs.gather(1, found.outputs.abs().argmax(1, keepdim=True)) > 0).all()


def test_singular_vectors_of_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    found = most_stretched(model, torch.ones(5, 1, 3, 4))
    assert (found.inputs.shape, found.outputs.shape) == ((5, 1, 3, 4), (5, 3))
    with pytest.raises(FlatlibError, match="uint8"):
        most_stretched(model, torch.ones(5, 12, dtype=torch.uint8))
