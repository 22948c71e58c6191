"""Every activation, recurrent and attention layer of torch.nn, against differences of the gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from central_differences import assert_measured, differences
from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace
from flatlib.errors import FlatlibError

ACTIVATIONS = {
    name: [] for name in ("ReLU", "ReLU6", "Hardsigmoid", "SiLU", "Mish", "Hardswish", "ELU", "CELU", "SELU")
}
ACTIVATIONS |= {name: [] for name in ("Hardtanh", "RReLU", "LeakyReLU")}  # these have an in-place variant
ACTIVATIONS = {name: [getattr(nn, name)(), getattr(nn, name)(inplace=True)] for name in ACTIVATIONS} | {
    "Threshold": [nn.Threshold(0.1, 2.0), nn.Threshold(0.1, 2.0, inplace=True)],
    "Sigmoid": [nn.Sigmoid()],
    "Tanh": [nn.Tanh()],
    "GLU": [nn.GLU()],
    "GELU": [nn.GELU(), nn.GELU("tanh")],
    "Hardshrink": [nn.Hardshrink()],
    "LogSigmoid": [nn.LogSigmoid()],
    "Softplus": [nn.Softplus(2, 1)],
    "Softshrink": [nn.Softshrink()],
    "PReLU": [nn.PReLU(), nn.PReLU(6)],
    "Softsign": [nn.Softsign()],
    "Tanhshrink": [nn.Tanhshrink()],
    "Softmin": [nn.Softmin(1)],
    "Softmax": [nn.Softmax(1)],
    "LogSoftmax": [nn.LogSoftmax(1)],
    "Softmax2d": [nn.Sequential(nn.Unflatten(1, (3, 2, 1)), nn.Softmax2d(), nn.Flatten())],
}


def test_every_activation_is_here():
    assert set(ACTIVATIONS) | {"MultiheadAttention"} >= set(nn.modules.activation.__all__)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    for layer in ACTIVATIONS[name]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), layer, nn.LazyLinear(2)).double()
        nn.init.normal_(model[0].weight, std=2.0)
        x = torch.randn(5, 2, dtype=torch.float64)
        model(x)
        assert_measured(model, F.cross_entropy, (x, torch.arange(5) % 2))


RECURRENT = {
    "tanh": nn.RNN(2, 2, batch_first=True),
    "relu": nn.RNN(2, 2, batch_first=True, nonlinearity="relu"),
    "lstm": nn.LSTM(2, 2, batch_first=True),
    "lstm_projected": nn.LSTM(2, 3, batch_first=True, proj_size=1),
    "lstm_deep": nn.LSTM(2, 1, 2, batch_first=True, bidirectional=True, dropout=0.5),
    "gru": nn.GRU(2, 2, batch_first=True),
}


def recurrent(layer: nn.Module, packed: bool) -> tuple[nn.Module, tuple]:
    def function(net: nn.Module, x: Tensor) -> Tensor:
        if packed:
            lengths = 2 + (x[:, 0, 0] > 0).long()
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = net.layer(x)
        if packed:
            output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
        return net.head(output.sum(1))

    torch.manual_seed(0)
    model = Net(function, layer=layer, head=nn.LazyLinear(2)).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64)
    model(x)
    return model, (x, torch.arange(4) % 2)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name, packed):
    model, data = recurrent(RECURRENT[name], packed)
    assert_measured(model, F.cross_entropy, data)


class CudnnSwitch(TorchFunctionMode):
    """Record whether cuDNN is on when a function is called."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.seen.setdefault(function, torch.backends.cudnn.enabled)
        return function(*arguments, **(named or {}))


def test_recurrent_layers_do_without_cudnn():
    """Its kernels have no second derivative; convolutions keep theirs."""
    for layer, function in (
        ("tanh", torch.rnn_tanh),
        ("relu", torch.rnn_relu),
        ("lstm", torch.lstm),
        ("gru", torch.gru),
    ):
        model, (x, y) = recurrent(RECURRENT[layer], packed=False)
        convolution = Net(lambda net, x: net.model(net.first(x)), first=nn.Conv1d(3, 3, 1), model=model).double()
        with CudnnSwitch() as switch:
            HessianOperator(convolution, "cross_entropy", (x, y)).gradient()
        assert (switch.seen[function], switch.seen[torch.conv1d]) == (False, True)
    assert torch.backends.cudnn.enabled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN needs a GPU")
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_on_a_gpu(name):
    model, data = recurrent(RECURRENT[name], packed=False)
    expected = HessianOperator(model, F.cross_entropy, data).to_dense()
    found = HessianOperator(model.cuda(), F.cross_entropy, data).to_dense()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells(cell):
    def function(net: nn.Module, x: Tensor) -> Tensor:
        state = net.cell(x, net.cell(x))
        return state[0] if isinstance(state, tuple) else state

    torch.manual_seed(0)
    model = Net(function, cell=cell(2, 2)).double()
    assert_measured(model, F.cross_entropy, (torch.randn(4, 2, dtype=torch.float64), torch.arange(4) % 2))


def encoder(**options) -> nn.Module:
    return nn.TransformerEncoderLayer(2, 2, 2, batch_first=True, **options)


CAUSAL = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
ATTENTION = {
    "weights": (nn.MultiheadAttention(2, 2, batch_first=True), lambda a, x: a(x, x, x)[0]),
    "no_weights": (
        nn.MultiheadAttention(2, 1, batch_first=True, add_bias_kv=True, dropout=0.5),
        lambda a, x: a(x, x.sin(), x, need_weights=False, attn_mask=CAUSAL, is_causal=True)[0],
    ),
    "encoder": (encoder(), lambda a, x: a(x)),
    "encoder_gelu": (encoder(activation="gelu", norm_first=True), lambda a, x: a(x, src_mask=CAUSAL, is_causal=True)),
    "nested": (nn.TransformerEncoder(encoder(), 2), lambda a, x: a(x, src_key_padding_mask=padding(x))[:, :2]),
    "decoder": (nn.TransformerDecoderLayer(2, 1, 2, batch_first=True), lambda a, x: a(x, x.sin())),
    "grouped": (nn.Identity(), lambda a, x: sdpa(x, enable_gqa=True)),
    "causal": (nn.Identity(), lambda a, x: sdpa(x, is_causal=True, scale=0.3)),
}


def padding(x: Tensor) -> Tensor:
    return torch.tensor([[False, False, True]]).expand(len(x), 3)


def sdpa(x: Tensor, **options) -> Tensor:
    q = x.unsqueeze(1).expand(-1, 2, -1, -1)
    keys = x.unsqueeze(1).sin() if "enable_gqa" in options else q.sin()
    return F.scaled_dot_product_attention(q, keys, keys.exp(), **options)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    torch.manual_seed(0)
    layer, function = ATTENTION[name]
    model = Net(
        lambda net, x: net.head(function(net.layer, net.first(x).unflatten(1, (3, 2))).flatten(1)),
        first=nn.Linear(2, 6),
        layer=layer,
        head=nn.LazyLinear(2),
    ).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    model(x)
    assert_measured(model, F.cross_entropy, (x, torch.arange(3) % 2))


def test_a_frozen_encoder_without_its_inference_kernels():
    """Without a parameter that requires grad PyTorch would use them, and set padding to zero."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(net.layer(x, src_key_padding_mask=padding(x)).flatten(1)),
        layer=nn.TransformerEncoder(encoder(), 1),
        head=nn.Linear(6, 2),
    ).double()
    data = torch.randn(3, 3, 2, dtype=torch.float64), torch.arange(3) % 2
    whole = differences(model, F.cross_entropy, data)
    found = HessianOperator(model, F.cross_entropy, data, parameters="head.*").to_dense()
    torch.testing.assert_close(found, whole[-14:, -14:], rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        assert torch.equal(GaussNewtonOperator(model, F.cross_entropy, data, parameters="head.*").to_dense(), found)


def test_a_layer_with_a_single_derivative_is_refused():
    model = nn.Sequential(nn.Unflatten(1, (2, 2, 1)), nn.Conv2d(2, 2, 1), nn.CrossMapLRN2d(2), nn.Flatten()).double()
    with pytest.raises(FlatlibError, match="automatic differentiation"):
        HessianOperator(model, "mse", (torch.randn(3, 4, dtype=torch.float64), torch.zeros(3, 4))).to_dense()


@pytest.mark.parametrize("engine", ["lanczos", "pyhessian"])
def test_engines_agree_on_functions_composed_anew(engine):
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(7, 4), nn.Hardsigmoid(), nn.Linear(4, 3)).double()
    operator = HessianOperator(model, "cross_entropy", (torch.arange(27).view(9, 3) % 7, torch.arange(9) % 3))
    largest = torch.linalg.eigvalsh(operator.to_dense())[-1:]
    found = top_eigenvalues(operator, engine=engine, tol=1e-8)
    torch.testing.assert_close(found.values, largest, rtol=1e-4, atol=0)


def test_the_trace_of_a_network_of_hard_sigmoids_is_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Hardsigmoid(), nn.Linear(4, 2)).double()
    operator = HessianOperator(model, "cross_entropy", (torch.randn(9, 2, dtype=torch.float64), torch.arange(9) % 2))
    found = trace(operator)
    assert found.exact
    assert found.value == pytest.approx(float(operator.to_dense().trace()), rel=1e-10)
