"""Models that need care: the right answer, against the dense Hessian or differences of the gradient."""

import pytest
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from flatlib.curvature import HessianOperator, top_eigenvalues, trace

X = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def differences(model, step=1e-5):
    """The Hessian from central differences of the gradient, all parameters, cross-entropy on (X, Y)."""
    parameters = list(model.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at):
        nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(F.cross_entropy(model(X), Y), parameters, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    rows = [(gradient(flat + e) - gradient(flat - e)) / (2 * step) for e in step * torch.eye(len(flat)).double()]
    nn.utils.vector_to_parameters(flat, parameters)
    return torch.stack(rows)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class Partly(nn.Module):
    """One output that is constant, one parameter that only a part of the examples use."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(8, 2), nn.Parameter(torch.ones(2))

    def forward(self, x):
        output = self.layer(x)
        output = torch.where(x[:, :1] > 0, output * self.scale, output.tanh())
        return torch.cat([output, torch.zeros(len(x), 1, dtype=x.dtype)], 1)


def normed(kind):
    def make():
        return nn.Sequential(getattr(parametrizations, kind)(nn.Linear(8, 5)), nn.Tanh(), nn.Linear(5, 3))

    return make


MODELS = {
    "tied": Tied,
    "partly used": Partly,
    "weight norm": normed("weight_norm"),
    "spectral norm": normed("spectral_norm"),
    "in place": lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), nn.Flatten(), nn.Linear(8, 3)
    ),
    "groups": lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_against_differences(name, chunk_size):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    expected = differences(model)
    operator = HessianOperator(model, "cross_entropy", (X, Y), chunk_size=chunk_size)
    assert (operator.to_dense() - expected).norm() < 1e-7 * expected.norm()
    found = trace(operator)
    assert abs(found.value - float(expected.trace())) <= 5 * found.standard_error + 1e-7 * float(expected.norm())


def test_wrappers_are_taken_off():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    expected = HessianOperator(model, "cross_entropy", (X, Y)).to_dense()
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        operator = HessianOperator(wrapped, "cross_entropy", (X, Y))
        assert list(operator.parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert torch.equal(operator.to_dense(), expected)


def test_sparse_gradients():
    torch.manual_seed(0)
    tokens = torch.arange(12).reshape(4, 3) % 7
    operators = [
        HessianOperator(
            nn.Sequential(nn.Embedding(7, 2, sparse=sparse), nn.Flatten(), nn.Linear(6, 3)), "mse", (tokens, Y[:4])
        )
        for sparse in (False, True)
    ]
    operators[1].model.load_state_dict(operators[0].model.state_dict())
    assert torch.equal(operators[1].to_dense(), operators[0].to_dense())


def test_targets_of_any_integer_type(small_case):
    x, y = small_case.data
    for dtype in (torch.int32, torch.uint8):
        operator = HessianOperator(small_case.model, small_case.loss, (x, y.to(dtype)))
        torch.testing.assert_close(operator.to_dense(), small_case.dense())


def test_scipy_takes_the_operator_as_it_is(small_case):
    operator = HessianOperator(small_case.model, small_case.loss, small_case.data)
    spectrum = torch.linalg.eigvalsh(small_case.dense())
    assert scipy.sparse.linalg.aslinearoperator(operator).dtype == "float64"
    (value,) = scipy.sparse.linalg.eigsh(operator, 1, which="LA", return_eigenvectors=False)
    assert value == pytest.approx(float(spectrum[-1]), rel=1e-9)
    vector = operator.gradient()
    assert torch.equal(torch.as_tensor(operator.matvec(vector.numpy())), operator.matvec(vector))


def test_ignored_targets_count_in_one_chunk():
    model = nn.Linear(8, 3).double()
    kept = Y != 1
    some = HessianOperator(model, "cross_entropy", (X, torch.where(kept, Y, -100)))
    torch.testing.assert_close(some.to_dense(), HessianOperator(model, "cross_entropy", (X[kept], Y[kept])).to_dense())


def test_symmetry_is_rounding_on_a_float32_network():
    """What is checked on every product leaves a wide gap: rounding, and then nothing until a term is missing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 8, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(8, 3))
    operator = HessianOperator(model, "cross_entropy", (X.float(), Y), batch_norm="train")
    dense = operator.to_dense()
    assert (dense - dense.T).norm() < 1e-5 * dense.norm()
    assert top_eigenvalues(operator, tol=1e-5).converged
