"""Bad input: the right answer or one clear line, never a silent wrong number."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from flatlib.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    density,
    frobenius,
    top_eigenvalues,
    trace,
)
from flatlib.errors import FlatlibError
from flatlib.sharpness.jacobian import jacobian_norm


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return F.dropout(self.layer(x))


class Counting(nn.Module):
    """A model that is another one whenever it is run."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


class Tupled(nn.Linear):
    def __init__(self):
        super().__init__(8, 3)

    def forward(self, x):
        return (super().forward(x),)


X, Y = torch.linspace(-1, 1, 48).sin().reshape(6, 8), torch.zeros(6, dtype=torch.long)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
BN = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
HALVES = {"chunk_size": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": []}, "empty"),
        ({"data": (X[:0], Y[:0])}, "empty"),
        ({"data": [{"x": X}]}, "two tensors"),
        ({"data": (X, Y[:4])}, "not N pairs"),
        ({"data": [(X, Y), (X[:, :2], Y)]}, "do not fit together"),
        ({"data": (X.byte(), Y)}, "uint8 do not suit"),
        ({"loss": "hinge"}, '"hinge" is unknown'),
        ({"loss": 3}, "a name or a callable"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "weights examples alike"),
        ({"loss": "mse", "data": (X, X[:, :2])}, "mse: targets of shape"),
        ({"loss": lambda output, target: output}, "a mean over examples"),
        ({"loss": lambda output, target: output.mean() * torch.inf}, "the loss is"),
        ({"loss": lambda output, target: (output - output.detach()).sqrt().mean()}, "gradient is not finite"),
        ({"batch_norm": "running"}, "choose one of eval, train, recalibrated"),
        ({"chunk_size": 0}, "not a positive number"),
        ({"model": nn.Flatten()}, "no parameter"),
        ({"model": nn.Linear(8, 3).requires_grad_(False)}, "no trainable parameter"),
        ({"model": Noisy()}, "draws random numbers"),
        ({"model": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3).double())}, "more than one dtype"),
        ({"model": nn.LazyLinear(3)}, "without values"),
        ({"model": nn.Linear(8, 3, device="meta")}, "without values"),
        ({"model": nn.Linear(8, 3, dtype=torch.complex64)}, "float32 or float64, not torch.complex64"),
        ({"model": nn.Linear(5, 3)}, r"Linear fails on inputs of shape \(2, 8\): RuntimeError"),
        ({"model": Counting()}, 'changes its buffer "calls"'),
        ({"model": BN, "batch_norm": "train", "data": (X[:1], Y[:1])}, "more than 1 value per channel"),
        ({"model": BN, "batch_norm": "recalibrated", "data": (X[:1], Y[:1])}, "a single value a channel"),
        ({"model": nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, track_running_stats=False))} | HALVES, "depend on"),
        ({"model": nn.Sequential(nn.Unflatten(1, (4, 2)), nn.LSTM(2, 3), Last())} | HALVES, "depend on the others"),
        ({"data": (X, Y + 3)}, "the targets run from 3 to 3, the outputs have 3 classes"),
        ({"data": (X, Y - 1)}, "the targets run from -1 to -1"),
        ({"data": (X, Y.float())}, r"the loss fails on outputs of shape \(6, 3\) and targets of shape \(6,\)"),
        ({"data": (X, Y + 3), "loss": "mse"}, "mse: a target is not one of the 3 classes"),
        ({"data": (X.where(torch.arange(6)[:, None] != 5, torch.nan), Y)} | HALVES, "the loss is nan"),
        ({"data": None}, "got NoneType"),
        ({"data": torch.utils.data.TensorDataset(X, Y)}, "in batches from a DataLoader"),
        ({"data": (X.numpy(), Y.numpy())}, "tuple of ndarray, ndarray|got ndarray"),
        ({"chunk_size": 2.5}, "not a positive number"),
        ({"loss": lambda output, target: F.cross_entropy(output, target, reduction="sum")}, "is a sum over examples"),
        ({"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 9.0, 1.0])), "data": (X, CLASSES)} | HALVES, "weights or"),
        ({"data": (X, torch.tensor([0, 1, 2, 0, -100, 1]))} | {"chunk_size": 5}, "ignores some"),
        ({"loss": lambda output, target: 1.0}, "the loss is a float"),
        ({"loss": lambda output, target: output.missing}, "AttributeError"),
        ({"model": Tupled(), "loss": "mse"}, "the loss fails on a tuple"),
    ],
)
def test_says_what_is_wrong_in_one_line(arguments, message):
    arguments = {"model": nn.Linear(8, 3), "loss": "cross_entropy", "data": (X, Y)} | arguments
    state = torch.get_rng_state()
    with pytest.raises(FlatlibError, match=message) as error:
        HessianOperator(**arguments).gradient()
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
    """The same, and says so."""

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


class Cubed(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.outer, self.function = nn.Linear(8, 4), nn.Linear(4, 3), function

    def forward(self, x):
        return self.outer(self.function.apply(self.inner(x)))


MEASURES = {
    "eigenvalue": top_eigenvalues,
    "PyHessian": lambda operator: top_eigenvalues(operator, engine="pyhessian"),
    "trace": lambda operator: trace(operator, probes=4),
    "frobenius": frobenius,
    "basis": lambda operator: frobenius(operator, probes=2, basis=torch.randn(operator.shape[0], 9)),
    "density": density,
    "dense": HessianOperator.to_dense,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_a_second_derivative_that_is_missing_is_never_taken_for_zero(measure):
    torch.manual_seed(0)
    for function in (CubeOnce, Cube):
        with pytest.raises(FlatlibError, match=r"no second derivative|not those of a symmetric matrix"):
            measure(HessianOperator(Cubed(function), "cross_entropy", (X, CLASSES)))


def test_nor_in_the_gauss_newton_matrix():
    torch.manual_seed(0)
    for function, message in ((CubeOnce, "no second derivative"), (Cube, "not those of a symmetric matrix")):
        with pytest.raises(FlatlibError, match=message):
            top_eigenvalues(GaussNewtonOperator(Cubed(function), "cross_entropy", (X, CLASSES)))


def test_an_operation_that_pytorch_cannot_differentiate_twice():
    model = nn.Sequential(nn.EmbeddingBag(5, 3))
    with pytest.raises(FlatlibError, match="second derivative fails: NotImplementedError") as error:
        HessianOperator(model, "cross_entropy", (torch.arange(12).reshape(6, 2) % 5, Y)).matvec(torch.ones(15))
    assert isinstance(error.value.__cause__, NotImplementedError)


def test_more_eigenvalues_than_there_are():
    operator = HessianOperator(nn.Linear(8, 3), "cross_entropy", (X, Y))
    for k in (28, 0):
        with pytest.raises(FlatlibError, match=f"k={k} .*27"):
            top_eigenvalues(operator, k)


def test_a_jacobian_of_what_is_not_logits():
    with pytest.raises(FlatlibError, match=r"\(N, C\), got tuple"):
        jacobian_norm(Tupled(), X)
    with pytest.raises(FlatlibError, match=r"fails on inputs of shape \(2, 8\)"):
        jacobian_norm(nn.Linear(5, 3), X)
