"""Every function of torch.nn.functional has the Hessian and the Gauss-Newton matrix that differences give."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from central_differences import assert_measured, differences, jacobian
from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.errors import FlatlibError

EXAMPLES = 3


def row(h: Tensor) -> Tensor:
    return h.view(-1, 2, 8)


def image(h: Tensor) -> Tensor:
    return h.view(-1, 1, 4, 4)


def volume(h: Tensor) -> Tensor:
    return h.view(-1, 2, 2, 2, 2)


def ones(*shape: int) -> Tensor:
    """A fixed kernel, not of equal numbers."""
    return torch.linspace(0.5, 1.5, torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def unpooled(dimensions: int, x: Tensor) -> Tensor:
    pool, unpool = getattr(F, f"max_pool{dimensions}d"), getattr(F, f"max_unpool{dimensions}d")
    return unpool(*pool(x, 2, return_indices=True), 2)


def attended(h: Tensor) -> Tensor:
    q = h.view(-1, 4, 4)
    return F.scaled_dot_product_attention(q, q.sin(), q.cos(), attn_mask=torch.eye(4, dtype=torch.bool).logical_not())


def heads(h: Tensor) -> Tensor:
    x = h.view(-1, 4, 4).transpose(0, 1)
    weights = ones(12, 4).sin(), ones(12), None, None, False, 0.0, ones(4, 4), ones(4)
    return F.multi_head_attention_forward(x, x, x, 4, 2, *weights, training=False)[0].transpose(0, 1)


MODES = ["nearest", "nearest-exact", "bilinear", "bicubic", "area"]
GRID = {"align_corners": False, "padding_mode": "reflection"}
PIECEWISE = ["hardsigmoid", "hardswish", "hardtanh", "relu6", "relu", "leaky_relu", "rrelu", "softshrink", "hardshrink"]
SMOOTH = ["selu", "elu", "celu", "silu", "mish", "tanhshrink", "logsigmoid", "softsign", "sigmoid", "tanh", "glu"]
# Functions of 16 hidden features an example; more than one of them where options make them different functions.
FUNCTIONS = {name: [getattr(F, name)] for name in [*PIECEWISE, *SMOOTH]} | {
    "normalize": [F.normalize],
    "gelu": [F.gelu, lambda h: F.gelu(h, approximate="tanh")],
    "softplus": [F.softplus, lambda h: F.softplus(h, 2, 1)],
    "hardtanh": [F.hardtanh, lambda h: F.hardtanh(h, -0.5, 0.7)],
    "threshold": [lambda h: F.threshold(h, 0.1, 2.0)],
    "prelu": [lambda h: F.prelu(h, ones(16))],
    "softmax": [lambda h: F.softmax(h, 1)],
    "softmin": [lambda h: F.softmin(h, 1)],
    "log_softmax": [lambda h: F.log_softmax(h, 1)],
    "avg_pool1d": [lambda h: F.avg_pool1d(row(h), 3, 2)],
    "avg_pool2d": [lambda h: F.avg_pool2d(image(h), 2, 1, 1, count_include_pad=False)],
    "avg_pool3d": [lambda h: F.avg_pool3d(volume(h), 2, 1)],
    "adaptive_avg_pool1d": [lambda h: F.adaptive_avg_pool1d(row(h), 3)],
    "adaptive_avg_pool2d": [lambda h: F.adaptive_avg_pool2d(image(h), 3), lambda h: F.adaptive_avg_pool2d(image(h), 1)],
    "adaptive_avg_pool3d": [lambda h: F.adaptive_avg_pool3d(volume(h), (2, 1, 2))],
    "adaptive_max_pool1d": [lambda h: F.adaptive_max_pool1d(row(h), 3)],
    "adaptive_max_pool2d": [lambda h: F.adaptive_max_pool2d(image(h), 3)],
    "adaptive_max_pool3d": [lambda h: F.adaptive_max_pool3d(volume(h), (2, 1, 2))],
    "max_pool1d": [lambda h: F.max_pool1d(row(h), 3, 2)],
    "max_pool2d": [lambda h: F.max_pool2d(image(h), 2, 1, 1, dilation=2, ceil_mode=True)],
    "max_pool3d": [lambda h: F.max_pool3d(volume(h), 2, 1)],
    "max_unpool1d": [lambda h: unpooled(1, row(h))],
    "max_unpool2d": [lambda h: unpooled(2, image(h))],
    "max_unpool3d": [lambda h: unpooled(3, volume(h))],
    "lp_pool1d": [lambda h: F.lp_pool1d(row(h).exp(), 3, 2)],
    "lp_pool2d": [lambda h: F.lp_pool2d(image(h), 2, 2), lambda h: F.lp_pool2d(image(h).exp(), 1.5, 2)],
    "lp_pool3d": [lambda h: F.lp_pool3d(volume(h), 2, (2, 2, 1))],
    "fractional_max_pool2d": [
        lambda h: F.fractional_max_pool2d(image(h), 2, 2, _random_samples=ones(len(h), 1, 2) / 2)
    ],
    "fractional_max_pool3d": [
        lambda h: F.fractional_max_pool3d(volume(h), 1, 1, _random_samples=ones(len(h), 2, 3) / 2)
    ],
    "conv1d": [lambda h: F.conv1d(row(h), ones(4, 1, 3), groups=2, padding="same")],
    "conv2d": [
        lambda h: F.conv2d(image(h), ones(2, 1, 2, 2)),
        lambda h: F.conv2d(image(h) * (1 + 2j), 1j * ones(2, 1, 2, 2)).abs(),
    ],
    "conv3d": [lambda h: F.conv3d(volume(h), ones(1, 2, 2, 2, 2), padding=1, dilation=2)],
    "conv_transpose1d": [lambda h: F.conv_transpose1d(row(h), ones(2, 2, 3), stride=2, output_padding=1, groups=2)],
    "conv_transpose2d": [lambda h: F.conv_transpose2d(image(h), ones(1, 2, 2, 2), padding=1, dilation=2)],
    "conv_transpose3d": [lambda h: F.conv_transpose3d(volume(h), ones(2, 1, 2, 1, 1))],
    "conv_tbc": [lambda h: F.conv_tbc(row(h).transpose(0, 1), ones(2, 8, 3), ones(3)).transpose(0, 1)],
    "linear": [lambda h: F.linear(h, ones(2, 16))],
    "bilinear": [lambda h: F.bilinear(h, h.sin(), ones(2, 16, 16))],
    "pad": [
        lambda h, mode=mode: F.pad(image(h), (1, 2, 1, 1), mode)
        for mode in ("constant", "reflect", "replicate", "circular")
    ],
    "batch_norm": [lambda h: F.batch_norm(h, ones(16), ones(16), ones(16))],
    "instance_norm": [lambda h: F.instance_norm(image(h), weight=ones(1)).exp()],
    "group_norm": [lambda h: F.group_norm(h, 2, ones(16))],
    "layer_norm": [lambda h: F.layer_norm(row(h), (8,), ones(8))],
    "rms_norm": [lambda h: F.rms_norm(row(h), (8,), ones(8))],
    "local_response_norm": [lambda h: F.local_response_norm(row(h), 2, alpha=0.5)],
    "cosine_similarity": [lambda h: F.cosine_similarity(row(h), row(h).flip(1).exp(), 2)],
    "pairwise_distance": [lambda h: F.pairwise_distance(row(h), row(h).flip(1).exp())],
    "pdist": [lambda h: torch.stack([F.pdist(x) for x in h.view(-1, 4, 4)])],
    "pixel_shuffle": [lambda h: F.pixel_shuffle(h.view(-1, 4, 2, 2), 2)],
    "pixel_unshuffle": [lambda h: F.pixel_unshuffle(image(h), 2)],
    "channel_shuffle": [lambda h: F.channel_shuffle(h.view(-1, 4, 2, 2), 2)],
    "unfold": [lambda h: F.unfold(image(h), 2)],
    "fold": [lambda h: F.fold(h.view(-1, 4, 4), (3, 3), 2)],
    "interpolate": [
        *[lambda h, mode=mode: F.interpolate(image(h), (5, 3), mode=mode) for mode in MODES],
        lambda h: F.interpolate(image(h), 3, mode="bicubic", antialias=True),
        lambda h: F.interpolate(row(h), 5, mode="linear"),
        lambda h: F.interpolate(volume(h), 3, mode="trilinear"),
    ],
    "upsample": [lambda h: F.interpolate(image(h), 5)],
    "upsample_bilinear": [lambda h: F.interpolate(image(h), 5, mode="bilinear", align_corners=True)],
    "upsample_nearest": [lambda h: F.interpolate(image(h), 5)],
    "grid_sample": [
        lambda h, mode=mode: F.grid_sample(image(h), h.view(-1, 4, 2, 2), mode, **GRID)
        for mode in ("bilinear", "bicubic")
    ],
    "affine_grid": [lambda h: F.affine_grid(h.view(-1, 4, 4)[:, :2, :3], [len(h), 1, 2, 3], align_corners=True)],
    "scaled_dot_product_attention": [attended],
    "multi_head_attention_forward": [heads],
}
IN_PLACE = [
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "relu6",
    "elu",
    "celu",
    "selu",
    "silu",
    "mish",
    "leaky_relu",
    "rrelu",
]
LOSSES = {name for name in dir(F) if name.endswith(("_loss", "cross_entropy", "_with_logits", "kl_div"))}  # other tests
RANDOM = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "gumbel_softmax"}
RANDOM |= {"rrelu_"}
SAME = {name for name in dir(F) if name.endswith(("_with_indices", "_")) and not name.startswith("_")}
HALF_PRECISION = {"grouped_mm", "scaled_grouped_mm", "scaled_mm"}
OTHERS = {"embedding", "embedding_bag"}  # tests of their own
OTHERS |= {"one_hot", "assert_int_or_pair", "boolean_dispatch", "native_channel_shuffle"}  # no derivative


def bent(output: Tensor, target: Tensor) -> Tensor:
    """A loss in which the second derivative of each output counts."""
    return (output + output.square()).flatten(1).mean()


def net(function, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    model = Net(lambda net, x: function(net.linear(x)), linear=nn.Linear(2, 16)).double()
    return model, (torch.randn(EXAMPLES, 2, dtype=torch.float64), torch.zeros(EXAMPLES))


def test_every_function_is_here():
    """A function that is new in PyTorch belongs into one of these sets."""
    modules = ("torch", "torch.nn.functional", "torch._C._nn")
    functions = {name for name in dir(F) if callable(getattr(F, name)) and getattr(F, name).__module__ in modules}
    known = {*FUNCTIONS, *LOSSES, *RANDOM, *SAME, *HALF_PRECISION, *OTHERS}
    assert {name for name in functions if not name.startswith("_")} - known <= {"Tensor", "ScalingType", "SwizzleType"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hessian_is_that_of_differences(name):
    for function in FUNCTIONS[name]:
        model, data = net(function)
        expected = differences(model, bent, data)
        assert expected.norm() > 1e-3
        assert_measured(model, bent, data, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gauss_newton_is_that_of_differences(name):
    for function in FUNCTIONS[name]:
        model, data = net(function)
        slopes = jacobian(model, data)
        expected = 2 * slopes.T @ slopes / len(slopes)
        found = GaussNewtonOperator(model, bent, data).to_dense()
        assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name):
    """With the result ignored, as some networks do."""

    def function(h):
        h = h.clone()
        getattr(F, name)(h, inplace=True)
        return h

    model, data = net(function)
    assert_measured(model, bent, data)


def test_random_functions_are_refused():
    model, data = net(lambda h: F.dropout(h, training=True))
    with pytest.raises(FlatlibError, match="random numbers"):
        HessianOperator(model, bent, data).gradient()
