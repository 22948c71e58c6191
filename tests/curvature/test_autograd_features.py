"""Checkpoints, derivatives and transforms inside the model, complex numbers, inference mode, custom functions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from central_differences import assert_measured, differences
from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, trace
from flatlib.errors import FlatlibError, NotFinite

X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(5) % 2


def image_net(forward) -> nn.Module:
    """A network of the layers with double backward passes of their own."""
    torch.manual_seed(0)
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 2, 2))
    model = Net(forward, convolution=convolution, norm=nn.BatchNorm1d(2), head=nn.Linear(6, 2)).double()
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    return model


def features(net: nn.Module, x: Tensor) -> Tensor:
    return torch.tanh(net.norm(net.convolution(x.unsqueeze(1))))


def logits(net: nn.Module, x: Tensor) -> Tensor:
    return net.head(features(net, x).flatten(1))


def slope(net: nn.Module, x: Tensor) -> Tensor:
    """Derivative in the inputs, as of forces or a differential equation."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(logits(net, x)[:, 0].sum(), x, create_graph=True)[0]


def dual(net: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(logits(net, forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def one(net: nn.Module):
    return lambda row: logits(net, row[None])[0, 0]


INSIDE = {
    "grad": lambda net, x: logits(net, x) + slope(net, x)[:, :2],
    "second_grad": lambda net, x: logits(net, x) + second_slope(net, x)[:, :2],
    "dual": dual,
    "vmap": lambda net, x: torch.func.vmap(lambda row: logits(net, row[None])[0])(x),
    "func_grad": lambda net, x: torch.func.grad(lambda z: logits(net, z)[:, 0].sum())(x)[:, :2],
    "vmap_grad": lambda net, x: torch.func.vmap(torch.func.grad(one(net)))(x)[:, :2],
    "jvp": lambda net, x: torch.func.jvp(lambda z: logits(net, z), (x,), (torch.ones_like(x),))[1],
    "hessian": lambda net, x: torch.func.vmap(torch.func.hessian(one(net)))(x)[:, 0, :2],
}


def second_slope(net: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(logits(net, x)[:, 0].sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # forward mode compiles its rules with torch.jit
@pytest.mark.parametrize("name", INSIDE)
def test_derivatives_inside_the_model(name):
    assert_measured(image_net(INSIDE[name]), F.cross_entropy, (X, Y))


def test_a_derivative_inside_through_batch_statistics():
    """PyTorch's batch norm has no third derivative, which this needs."""
    model = image_net(INSIDE["grad"])
    data = X, Y
    found = HessianOperator(model, F.cross_entropy, data, batch_norm="train").to_dense()

    def plain(net: nn.Module, x: Tensor) -> Tensor:
        x = net.convolution(x.unsqueeze(1))
        variance, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
        x = (x - mean) * (variance + net.norm.eps).rsqrt() * net.norm.weight[:, None] + net.norm.bias[:, None]
        return net.head(torch.tanh(x).flatten(1))

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        output = plain(net, x)
        return output + torch.autograd.grad(output[:, 0].sum(), x, create_graph=True)[0][:, :2]

    model.function = forward
    torch.testing.assert_close(found, differences(model, F.cross_entropy, data), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpoints(use_reentrant):
    """The reentrant kind gives no gradient of parameters, without an error, where an input requires grad."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return net.head(checkpoint(lambda z: features(net, z), x, use_reentrant=use_reentrant).flatten(1))

    model = image_net(forward)
    expected = differences(image_net(logits), F.cross_entropy, (X, Y))
    assert_measured(model, F.cross_entropy, (X, Y), expected)
    operators = [HessianOperator(net, F.cross_entropy, (X, Y)) for net in (model, image_net(logits))]
    assert operators[0].bytes_per_example >= operators[1].bytes_per_example > 0
    assert trace(operators[0]).value == pytest.approx(trace(operators[1]).value)


def test_checkpoints_of_a_sequence():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    model = Net(lambda net, x: checkpoint_sequential(net.inner, 2, x, use_reentrant=True), inner=inner)
    assert_measured(model, F.cross_entropy, (X, Y), differences(inner, F.cross_entropy, (X, Y)))


def spectrum(net: nn.Module, x: Tensor) -> Tensor:
    waves = torch.fft.fft(net.first(x)) * net.filter
    return net.head(torch.cat([waves.abs(), (waves * waves.conj()).real, torch.fft.ifft(waves.tanh()).imag], 1))


def test_complex_numbers_between_real_parameters():
    torch.manual_seed(0)
    parts = {"first": nn.Linear(4, 3).double(), "head": nn.Linear(9, 2).double()}
    model = Net(spectrum, filter=torch.randn(3, dtype=torch.complex64), **parts)
    model.filter = model.filter.to(torch.complex128)
    assert_measured(model, F.cross_entropy, (X, Y))
    half = HessianOperator(copy.deepcopy(model).float(), "cross_entropy", (X, Y), dtype=torch.float64)
    assert half.model.filter.dtype == torch.complex128
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.float())
    torch.testing.assert_close(half.to_dense(), HessianOperator(model, "cross_entropy", (X, Y)).to_dense())


def test_complex_inputs_and_outputs():
    """The same in real coordinates."""
    torch.manual_seed(0)
    x, y = torch.complex(X, X.cos()), torch.complex(X, X.sin())[:, :2]
    head = nn.Linear(8, 4).double()
    model = Net(
        lambda net, x: torch.view_as_complex(net.head(torch.view_as_real(x).flatten(1)).unflatten(1, (2, 2))).sin(),
        head=head,
    )
    real = Net(lambda net, x: torch.view_as_real(net.model(x)), model=model)

    def loss(f: Tensor, y: Tensor) -> Tensor:
        return (f - y).abs().pow(3).mean()

    expected = differences(model, loss, (x, y))
    assert_measured(model, loss, (x, y), expected)
    pair = [
        GaussNewtonOperator(model, loss, (x, y)),
        GaussNewtonOperator(real, lambda f, y: loss(torch.view_as_complex(f), y), (x, y)),
    ]
    torch.testing.assert_close(pair[0].to_dense(), pair[1].to_dense())


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_complex_parameters_are_refused(dtype):
    model = Net(
        lambda net, x: (x.to(net.layer.weight) @ net.layer.weight.T).abs(), layer=nn.Linear(4, 2, dtype=torch.cfloat)
    )
    with pytest.raises(FlatlibError, match="view_as_real"):
        HessianOperator(model, "cross_entropy", (X, Y), dtype=dtype)


def test_tensors_made_in_inference_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
        made.load_state_dict(model.state_dict())
        x, y, z = X.clone(), Y.clone(), X[:, :2].clone()
        inside = HessianOperator(made, "cross_entropy", (x, y)).to_dense()
    expected = HessianOperator(model, "cross_entropy", (X, Y)).to_dense()
    torch.testing.assert_close(inside, expected, rtol=0, atol=0)
    for chunk_size in (None, 2):
        for data, reference in (((x, y), (X, Y)), ([(x, z)], (X, X[:, :2]))):
            loss = "mse" if data[-1] is not y else "cross_entropy"
            found = HessianOperator(made, loss, data, chunk_size=chunk_size).to_dense()
            torch.testing.assert_close(found, HessianOperator(model, loss, reference).to_dense())
    for batch_norm in ("train", "recalibrated"):
        found = HessianOperator(made, "mse", (x, z), batch_norm=batch_norm).to_dense()
        expected = HessianOperator(model, "mse", (X, X[:, :2]), batch_norm=batch_norm).to_dense()
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Once.apply, "once_differentiable"),
        (lambda h: torch.segment_reduce(h, "sum", lengths=torch.ones(len(h)).long()), "segment_reduce"),
    ],
)
def test_an_operation_without_a_second_derivative_is_named(function, reason):
    torch.manual_seed(0)
    model = Net(lambda net, x: function(net.layer(x)), layer=nn.Linear(4, 2)).double()
    for kind in (HessianOperator, GaussNewtonOperator):
        with pytest.raises(
            FlatlibError, match=f"no second derivative .*{reason}.*written with other PyTorch functions"
        ):
            kind(model, F.cross_entropy, (X, Y)).to_dense()


def test_a_product_that_is_not_finite_is_refused():
    """The norm of zero has a subgradient, and no second derivative."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.layer(x) + (0 * net.layer(x)).norm(dim=1, keepdim=True), layer=nn.Linear(4, 2)
    ).double()
    with pytest.raises(NotFinite, match="a product is not finite"):
        HessianOperator(model, "cross_entropy", (X, Y)).to_dense()
