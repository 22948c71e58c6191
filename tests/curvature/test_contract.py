"""Models, losses and data of every kind: the right matrix, or one line that says what is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, density, frobenius, top_eigenvalues, trace
from flatlib.errors import FlatlibError

DATA = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
X, Y = torch.linspace(-1, 1, 48).sin().reshape(6, 8), torch.zeros(6, dtype=torch.long)
CLASSES = torch.arange(6) % 3
BN = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
HALVES = {"chunk_size": 3}


def then(function):
    """A linear layer, and a function of its outputs."""
    return Net(lambda net, x: function(net.layer(x)), layer=nn.Linear(8, 3))


def counting():
    """A model that is another one whenever it is run."""
    return Net(lambda net, x: net.layer(x) * net.calls.add_(1), layer=nn.Linear(8, 3), calls=torch.zeros(()))


def steep(output, target):
    return (output - output.detach()).sqrt().mean()


def recurrent():
    return Net(lambda net, x: net.lstm(x.unflatten(1, (4, 2)))[0][:, -1], lstm=nn.LSTM(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": iter([])}, "empty"),
        ({"data": (X[:0], Y[:0])}, "empty"),
        ({"data": [{"x": X}]}, "got dict of x"),
        ({"data": (X, Y[:4])}, "not N pairs"),
        ({"data": [(X, Y), (X[:, :2], Y)]}, "fails on inputs of shape"),
        ({"data": (X.byte(), Y)}, "convert integer inputs to floating point"),
        ({"loss": "hinge"}, '"hinge" is unknown'),
        ({"loss": 3}, "a name or a callable"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "weights examples alike"),
        ({"loss": "mse", "data": (X, X[:, :2])}, "mse: targets of shape"),
        ({"loss": lambda output, target: output}, "a mean over examples"),
        ({"loss": lambda output, target: output.mean() * torch.inf}, "the loss is"),
        ({"loss": lambda output, target: output.mean() * torch.inf, "kind": GaussNewtonOperator}, "the loss is"),
        ({"loss": steep}, "gradient is not finite"),
        ({"loss": steep, "kind": GaussNewtonOperator}, "gradient is not finite"),
        ({"batch_norm": "running"}, "choose one of eval, train, recalibrated"),
        ({"batch_norm": "train"} | HALVES, "needs one batch"),
        ({"batch_norm": "train", "data": [(X[:3], Y[:3]), (X[3:], Y[3:])]}, "needs one batch"),
        ({"chunk_size": 0}, "not a positive number"),
        ({"model": nn.Flatten()}, "no parameter"),
        ({"model": nn.Linear(8, 3).requires_grad_(False)}, "no trainable parameter"),
        ({"model": then(F.dropout)}, "draws random numbers"),
        ({"model": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3).double())}, "more than one dtype"),
        ({"model": nn.LazyLinear(3)}, "without values"),
        ({"model": nn.Linear(8, 3, device="meta")}, "without values"),
        ({"model": nn.Linear(8, 3, dtype=torch.complex64)}, "complex: store each as a real one"),
        ({"model": nn.Linear(5, 3)}, r"Linear fails on inputs of shape \(2, 8\): RuntimeError"),
        ({"model": counting()}, 'changes its buffer "calls"'),
        ({"model": BN, "batch_norm": "train", "data": (X[:1], Y[:1])}, "more than 1 value per channel"),
        ({"model": BN, "batch_norm": "recalibrated", "data": (X[:1], Y[:1])}, "a single value a channel"),
        ({"model": nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, track_running_stats=False))} | HALVES, "depend on"),
        ({"model": recurrent()} | HALVES, "depend on the others"),
        ({"data": (X, Y + 3)}, "the targets run from 3 to 3, the outputs have 3 classes"),
        ({"data": (X, Y - 1)}, "the targets run from -1 to -1"),
        ({"data": (X, Y.float())}, "are not probabilities: pass whole numbers"),
        ({"data": (X, Y + 3), "loss": "mse"}, "mse: a target is not one of the 3 classes"),
        ({"data": (X.where(torch.arange(6)[:, None] != 5, torch.nan), Y)} | HALVES, "the loss is nan"),
        ({"data": None}, "got NoneType"),
        ({"data": torch.utils.data.TensorDataset(X, Y)}, "in batches from a DataLoader"),
        ({"chunk_size": 2.5}, "not a positive number"),
        ({"loss": lambda output, target: F.cross_entropy(output, target, reduction="sum")}, "is a sum over examples"),
        ({"loss": lambda output, target: 1.0}, "the loss is a float"),
        ({"loss": lambda output, target: output.missing}, "AttributeError"),
        ({"model": then(lambda y: (y,)), "loss": "mse"}, "the loss fails on outputs of type tuple"),
    ],
)
def test_bad_input_gives_one_line(arguments, message):
    arguments = {"kind": HessianOperator, "model": nn.Linear(8, 3), "loss": "cross_entropy", "data": (X, Y)} | arguments
    state = torch.get_rng_state()
    with pytest.raises(FlatlibError, match=message) as error:
        arguments.pop("kind")(**arguments).gradient()
    assert "\n" not in str(error.value)
    assert torch.equal(torch.get_rng_state(), state)


class Cube(Function):
    """Its backward pass is computed where autograd does not see it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad.detach() * ctx.saved_tensors[0].detach() ** 2


class CubeOnce(Cube):
    """The same, declared so."""

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


MISSING = "no second derivative|not the derivative of the gradient|not those of a symmetric matrix"
MEASURES = {
    "eigenvalue": top_eigenvalues,
    "pyhessian": lambda operator: top_eigenvalues(operator, engine="pyhessian"),
    "trace": lambda operator: trace(operator, probes=4),
    "frobenius": frobenius,
    "basis": lambda operator: frobenius(operator, probes=2, basis=torch.randn(operator.shape[0], 9)),
    "density": density,
    "dense": HessianOperator.to_dense,
}


@pytest.mark.parametrize(
    ("kind", "measure"),
    [*((HessianOperator, measure) for measure in MEASURES.values()), (GaussNewtonOperator, top_eigenvalues)],
    ids=[*MEASURES, "gauss_newton"],
)
@pytest.mark.parametrize("function", [CubeOnce, Cube])
def test_missing_second_derivatives_are_found(kind, measure, function):
    torch.manual_seed(0)
    model = nn.Sequential(then(function.apply), nn.Linear(3, 3))
    with pytest.raises(FlatlibError, match=MISSING):
        measure(kind(model, "cross_entropy", (X, CLASSES)))


def test_pytorchs_missing_second_derivatives():
    def forward(net, x):
        return torch.embedding_bag(net.layer.weight, x.flatten(), 2 * torch.arange(len(x)))[0]

    model = Net(forward, layer=nn.Embedding(5, 3))
    with pytest.raises(FlatlibError, match="second derivative fails: NotImplementedError") as error:
        HessianOperator(model, "cross_entropy", (torch.arange(12).reshape(6, 2) % 5, Y)).matvec(torch.ones(15))
    assert isinstance(error.value.__cause__, NotImplementedError)


def differences(model, step=1e-5):
    """The Hessian from central differences of the gradient, all parameters, cross-entropy on ``DATA``."""
    parameters = list(model.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at):
        nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(F.cross_entropy(model(DATA[0]), DATA[1]), parameters, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    rows = [(gradient(flat + e) - gradient(flat - e)) / (2 * step) for e in step * torch.eye(len(flat)).double()]
    nn.utils.vector_to_parameters(flat, parameters)
    return torch.stack(rows)


def tied():
    """Two layers with one weight."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    net[2].weight = net[0].weight
    return net


def partly(net, x):
    """One output that is constant, one parameter that only a part of the examples use."""
    output = net.layer(x)
    output = torch.where(x[:, :1] > 0, output * net.scale, output.tanh())
    return torch.cat([output, torch.zeros(len(x), 1, dtype=x.dtype)], 1)


MODELS = {
    "tied": tied,
    "partly used": lambda: Net(partly, layer=nn.Linear(8, 2), scale=nn.Parameter(torch.ones(2))),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 5)), nn.Tanh(), nn.Linear(5, 3)),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 5)), nn.Tanh(), nn.Linear(5, 3)),
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), nn.Flatten(), nn.Linear(8, 3)
    ),
    "groups": lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_unusual_models_agree_with_differences(name, chunk_size):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    expected = differences(model)
    operator = HessianOperator(model, "cross_entropy", DATA, chunk_size=chunk_size)
    assert (operator.to_dense() - expected).norm() < 1e-7 * expected.norm()
    found = trace(operator)
    assert abs(found.value - float(expected.trace())) <= 5 * found.standard_error + 1e-7 * float(expected.norm())


def test_float32_products_are_symmetric_to_rounding():
    """What is checked on every product leaves a wide gap: rounding, and then nothing until a term is missing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 8, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(8, 3))
    operator = HessianOperator(model, "cross_entropy", (DATA[0].float(), DATA[1]), batch_norm="train")
    dense = operator.to_dense()
    assert (dense - dense.T).norm() < 1e-5 * dense.norm()
    assert top_eigenvalues(operator, tol=1e-5).converged
