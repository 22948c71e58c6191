"""Products of both operators against dense matrices, for every model, loss and chunk size."""

import copy
import gc
import weakref
from functools import partial

import pytest
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, from_dict_batches, top_eigenvalues, trace
from flatlib.errors import FlatlibError
from flatlib.losses import resolve_loss


@pytest.mark.parametrize("chunk_size", [None, 5, 23])
def test_agrees_with_the_dense_hessian(case, chunk_size):
    operator = HessianOperator(*case, chunk_size=chunk_size)
    torch.testing.assert_close(operator.to_dense(), case.dense(), rtol=1e-9, atol=1e-12)


def test_gradient_and_shapes(case):
    operator = HessianOperator(*case, chunk_size=7)
    whole = HessianOperator(*case)
    n = sum(p.numel() for p in case.model.parameters())
    assert operator.shape == (n, n)
    assert (operator.torch_dtype, operator.device.type) == (torch.float64, "cpu")
    torch.testing.assert_close(operator.gradient(), whole.gradient())
    case.model.eval()
    output = case.model(case.data[0])
    target = case.data[1] if case.loss == "cross_entropy" else F.one_hot(case.data[1], 3).double()
    value = getattr(F, {"mse": "mse_loss"}.get(case.loss, case.loss))(output, target)
    expected = torch.autograd.grad(value, list(case.model.parameters()))
    torch.testing.assert_close(operator.gradient(), torch.cat([g.flatten() for g in expected]))


def test_matmat_is_matvec_by_columns(small_case):
    operator = HessianOperator(*small_case, chunk_size=10)
    V = torch.randn(operator.shape[0], 3, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(V)[:, 1], operator.matvec(V[:, 1]))
    with pytest.raises(FlatlibError, match="vectors of length"):
        operator.matvec(torch.ones(2))


def dictionaries(x, y):
    return [{"pixels": x[:9], "label": y[:9]}, {"pixels": x[9:], "label": y[9:]}]


SAME_EXAMPLES = {
    "unequal batches": lambda x, y: ((x[a:b], y[a:b]) for a, b in ((0, 10), (10, 12), (12, 12), (12, 23))),
    "int32": lambda x, y: (x, y.to(torch.int32)),
    "uint8": lambda x, y: (x, y.to(torch.uint8)),
    "dictionaries": lambda x, y: from_dict_batches(dictionaries(x, y), "pixels", "label"),
}


@pytest.mark.parametrize("form", SAME_EXAMPLES.values(), ids=SAME_EXAMPLES)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_forms_of_the_same_examples(small_case, form, chunk_size):
    model, loss, data = small_case
    operator = HessianOperator(model, loss, form(*data), chunk_size=chunk_size)
    torch.testing.assert_close(operator.to_dense(), small_case.dense(), rtol=1e-10, atol=1e-12)


def test_later_training_changes_nothing(small_case):
    dense = small_case.dense()
    operator = HessianOperator(*small_case, chunk_size=6)
    with torch.no_grad():
        for p in small_case.model.parameters():
            p.mul_(2)
    torch.testing.assert_close(operator.to_dense(), dense)


def test_graph_is_kept_if_it_fits(small_case, monkeypatch):
    operator = HessianOperator(*small_case)
    assert operator.chunk_size == operator.examples == 23
    monkeypatch.setattr("flatlib.curvature.operators.chunk_memory.GRAPH_MEMORY_CPU", 4000)
    chunked = HessianOperator(*small_case)
    assert 1 <= chunked.chunk_size < 23
    torch.testing.assert_close(chunked.to_dense(), operator.to_dense())
    assert chunked._graph is None


def test_a_block_of_parameters(small_case):
    dense = small_case.dense()
    last = HessianOperator(*small_case, parameters="3.*")
    assert list(last.parameters) == ["3.weight", "3.bias"]
    torch.testing.assert_close(last.to_dense(), dense[45:, 45:])
    biases = HessianOperator(*small_case, parameters=["0.bias", "*.bias"])
    assert biases.shape == (8, 8)
    with pytest.raises(FlatlibError, match='no parameter matches "4'):
        HessianOperator(*small_case, parameters=["0.*", "4.weight"])


def test_bytes_per_example_in_train_mode():
    """Batch norm in train mode refuses one value a channel, as a net that ends at 1 x 1 has for one example."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    data = torch.randn(6, 1, 3, 3), torch.arange(6) % 2
    operator = HessianOperator(model, "cross_entropy", data, batch_norm="train")
    assert operator.bytes_per_example > 0


def test_bad_dictionary_batches(small_case):
    model, loss, data = small_case
    with pytest.raises(FlatlibError, match=r"got dict of pixels, kind.*flatlib\.curvature\.from_dict_batches"):
        HessianOperator(model, loss, [{"pixels": data[0], "kind": data[1]}])
    with pytest.raises(FlatlibError, match='no "image"; it has pixels, label'):
        HessianOperator(model, loss, from_dict_batches(dictionaries(*data), "image", "label"))


def test_outputs_that_are_objects(small_case):
    """As of the models whose output has its logits in an attribute."""
    wrapped = Net(lambda net, x: {"logits": net.inner(x)}, inner=small_case.model)

    def loss(output, target):
        return F.cross_entropy(output["logits"], target)

    operator = HessianOperator(wrapped, loss, small_case.data)
    torch.testing.assert_close(operator.to_dense(), small_case.dense(), rtol=1e-10, atol=1e-12)
    assert not trace(operator, probes=None).exact


def test_scipy_accepts_an_operator(small_case):
    operator = HessianOperator(*small_case)
    spectrum = torch.linalg.eigvalsh(small_case.dense())
    assert scipy.sparse.linalg.aslinearoperator(operator).dtype == "float64"
    (value,) = scipy.sparse.linalg.eigsh(operator, 1, which="LA", return_eigenvectors=False)
    assert value == pytest.approx(float(spectrum[-1]), rel=1e-9)
    vector = operator.gradient()
    assert torch.equal(torch.as_tensor(operator.matvec(vector.numpy())), operator.matvec(vector))


def test_ignored_targets_count_in_one_chunk(small_case):
    x, y = small_case.data
    kept = y != 1
    some = HessianOperator(small_case.model, "cross_entropy", (x, torch.where(kept, y, -100)))
    expected = HessianOperator(small_case.model, "cross_entropy", (x[kept], y[kept])).to_dense()
    torch.testing.assert_close(some.to_dense(), expected)


def multiply(operator):
    operator.matvec(operator.gradient())


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        (HessianOperator, multiply),
        (GaussNewtonOperator, multiply),
        (HessianOperator, partial(top_eigenvalues, engine="pyhessian")),
    ],
    ids=["hessian", "gauss_newton", "pyhessian"],
)
def test_graph_is_freed_with_the_operator(small_case, kind, use):
    kept = []

    def watched(output, target):
        kept.append(weakref.ref(output))
        return F.cross_entropy(output, target)

    gc.disable()
    try:
        use(kind(small_case.model, watched, small_case.data))
        assert kept
        assert all(output() is None for output in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_unused_and_linear_parameters_are_flat(small_case, kind):
    small_case.model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    assert kind(*small_case).to_dense()[:2].abs().max() == 0
    with pytest.raises(FlatlibError, match="does not depend on the parameters"):
        kind(*small_case, parameters="unused").gradient()
    layer = nn.Linear(8, 3).double()
    linear = kind(layer, lambda output, target: output.mean(), small_case.data)
    assert linear.to_dense().abs().max() == 0
    assert linear.gradient().abs().max() > 0


def dense_gauss_newton(operator, data):
    """J^T A J from one derivative after another, of the operator's own model in its own mode."""
    model = copy.deepcopy(operator.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    output = model(data[0])
    rows = [torch.autograd.grad(f, parameters, retain_graph=True, materialize_grads=True) for f in output.flatten()]
    J = torch.stack([torch.cat([piece.flatten() for piece in row]) for row in rows])
    loss = resolve_loss(operator.loss)
    outputs = output.detach().flatten()
    A = torch.autograd.functional.hessian(lambda flat: loss(flat.view_as(output), data[1]), outputs)
    return J.T @ A @ J


@pytest.mark.parametrize("chunk_size", [None, 12])
def test_dense_gauss_newton(case, chunk_size):
    operator = GaussNewtonOperator(*case, chunk_size=chunk_size)
    G = operator.to_dense()
    torch.testing.assert_close(G, dense_gauss_newton(operator, case.data), rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(G)[0] > -1e-12
    assert (G - case.dense()).norm() > 1e-3 * G.norm()
    for factor in (1.0, 1e-9):
        scaled = GaussNewtonOperator(case.model, lambda o, t, f=factor: f * resolve_loss(case.loss)(o, t), case.data)
        top = float(top_eigenvalues(scaled, tol=1e-5).values)
        assert top == pytest.approx(factor * float(torch.linalg.eigvalsh(G)[-1]), rel=1e-6)
    hessian = HessianOperator(*case)
    torch.testing.assert_close(operator.gradient(), hessian.gradient())


def test_gauss_newton_needs_lanczos(small_case):
    operator = GaussNewtonOperator(*small_case)
    with pytest.raises(FlatlibError, match='use engine="lanczos"'):
        top_eigenvalues(operator, engine="pyhessian")


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gauss_newton_in_train_mode(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 2
    operator = GaussNewtonOperator(model, loss, data, batch_norm="train")
    G = operator.to_dense()
    torch.testing.assert_close(G, dense_gauss_newton(operator, data), rtol=1e-9, atol=1e-12)
    assert (G - GaussNewtonOperator(model, loss, data).to_dense()).norm() > 0.1 * G.norm()
