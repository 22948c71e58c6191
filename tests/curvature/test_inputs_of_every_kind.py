"""Models, losses and batches as people bring them: the Hessian of their own call, by differences, or one line."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from conftest import Net
from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues, trace
from flatlib.errors import FlatlibError
from flatlib.measures import Checkpoint, measure
from flatlib.measures.tracker import Tracker

X = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) // 4
REAL = torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def differences(loss_of, model, step=1e-5):
    """The Hessian from central differences of the gradient, in the model's own call."""
    parameters = list(model.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at):
        nn.utils.vector_to_parameters(at, parameters)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(), parameters, materialize_grads=True)])

    rows = [(gradient(flat + e) - gradient(flat - e)) / (2 * step) for e in step * torch.eye(len(flat)).double()]
    nn.utils.vector_to_parameters(flat, parameters)
    return torch.stack(rows)


def assert_right(model, loss, data, truth, **options):
    dense = HessianOperator(model, loss, data, **options).to_dense()
    assert (dense - truth).norm() <= 1e-6 * truth.norm()


def assert_refused(model, loss, data, message, **options):
    with pytest.raises(FlatlibError, match=message) as error:
        HessianOperator(model, loss, data, **options).to_dense()
    assert "\n" not in str(error.value)


# What counts in a loss.

PIXELS = Net(lambda net, x: net.layer(x).unflatten(1, (3, 4)), layer=nn.Linear(5, 12)).double()
LABELS = torch.arange(48).reshape(12, 4) % 3
LABELS[7:, 1:] = 255
LOSSES = {
    "class weights": (net(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 30.0]).double()), Y),
    "ignored": (net(), nn.CrossEntropyLoss(ignore_index=1), Y),
    "ignored by name": (net(), "cross_entropy", Y.where(Y != 2, -100)),
    "pixels": (PIXELS, nn.CrossEntropyLoss(ignore_index=255), LABELS),
    "smoothed": (net(), lambda o, y: F.cross_entropy(o, y, torch.tensor([1.0, 2, 5]).double(), label_smoothing=0.2), Y),
    "likelihood": (net(), lambda o, y: F.nll_loss(o.log_softmax(1), y, torch.tensor([3.0, 0.5, 1]).double()), Y),
    "batchmean": (
        net(),
        lambda o, y: nn.KLDivLoss(reduction="batchmean")(o.log_softmax(1), y),
        torch.rand(12, 3).double(),
    ),
    "positive": (net(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 4, 9]).double()), F.one_hot(Y, 3).double()),
    "own weights": (net(1), lambda o, y: ((o - y) ** 2 * y.exp()).sum() / y.exp().sum(), REAL),
    "focal": (
        net(),
        lambda o, y: ((1 - o.softmax(1)[range(len(y)), y]) ** 2 * F.cross_entropy(o, y, reduction="none")).mean(),
        Y,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk_size", [None, 6, 5, 1])
def test_chunks_weigh_what_counts(name, chunk_size):
    model, loss, y = LOSSES[name]
    own = (lambda o, t: F.cross_entropy(o, t)) if isinstance(loss, str) else loss
    assert_right(model, loss, (X, y), differences(lambda: own(model(X), y), model), chunk_size=chunk_size)


def contrastive(output, target):
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


def test_losses_that_compare_examples(monkeypatch):
    model = net()
    truth = differences(lambda: contrastive(model(X), Y), model)
    assert_right(model, contrastive, (X, Y), truth)
    assert_refused(model, contrastive, (X, Y), "its chunks do not add up: measure all", chunk_size=4)
    monkeypatch.setattr("flatlib.curvature.operators.chunk_memory.GRAPH_MEMORY_CPU", 1000)
    assert_right(model, contrastive, (X, Y), truth)


SUMS = {
    "tensor": (net(), lambda o, y: F.cross_entropy(o, y, reduction="sum")),
    "penalised": (net(), lambda o, y: F.cross_entropy(o, y, reduction="sum") + 7.0 * o.new_ones(())),
    "dictionary": (
        Net(lambda m, x: {"logits": m.inner(x)}, inner=net()),
        lambda o, y: F.cross_entropy(o["logits"], y, reduction="sum"),
    ),
    "object": (
        Net(lambda m, x: SimpleNamespace(logits=m.inner(x)), inner=net()),
        lambda o, y: F.cross_entropy(o.logits, y, reduction="sum"),
    ),
    "model and batch": (net(), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="sum")),
    "scaled": (net(), lambda o, y: F.mse_loss(o, F.one_hot(y, 3).double(), reduction="sum") / 128),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_sums_are_refused(name, kind):
    model, loss = SUMS[name]
    with pytest.raises(FlatlibError, match=r"sum over examples|takes? \(?model|loss of \(model"):
        kind(model, loss, (X, Y)).to_dense()


BROADCAST = {
    "mse module": (nn.MSELoss(), net(1), REAL[:, 0]),
    "function": (F.l1_loss, net(1), REAL[:, 0]),
    "callable": (lambda o, y: ((o - y) ** 2).mean(), net(1), REAL[:, 0]),
    "rows": (lambda o, y: (o - y).square().mean(), Net(lambda m, x: m.inner(x)[:, 0], inner=net(1)), REAL),
    "whole numbers": (lambda o, y: (o - y).square().mean(), net(1), Y),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", BROADCAST)
def test_broadcast_targets_are_refused(name):
    loss, model, y = BROADCAST[name]
    assert_refused(model, loss, (X, y), "are broadcast in the loss")

    def fixed(o, y):
        return loss(o.flatten(), y.flatten().double())

    assert_right(model, fixed, (X, y), differences(lambda: fixed(model(X), y), model))


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (net(1), torch.zeros(12).long(), 'pass loss="mse" for a regression'),
        (net(1), REAL, "single output"),
        (net(), torch.randn(12, 3).double(), 'did you mean loss="mse"'),
        (net(), REAL[:, 0], "are not probabilities: pass whole numbers"),
    ],
)
def test_regressions_measured_by_the_default_loss(model, y, message):
    assert_refused(model, "cross_entropy", (X, y), message)


# Models that keep, hold or replace things.


def decorated(model):
    forward = model.forward
    model.forward = lambda *arguments: forward(*arguments)


def hooked(model):
    kept = []
    model[0].register_forward_hook(lambda module, inputs, output: kept.append(output) or 2 * output)


def holding(model):
    model[1].register_forward_hook(lambda module, inputs, output: output + model[0].bias.sum() + model[2].weight.mean())


def remembering(model):
    model[0].register_forward_hook(lambda module, inputs, output: setattr(module, "features", output))


def pruned(model):
    prune.l1_unstructured(model[0], "weight", 0.4)


def weight_normed(model):
    with warnings.catch_warnings(action="ignore"):
        model[0] = nn.utils.weight_norm(model[0])


def spectral_normed(model):
    model[2] = nn.utils.spectral_norm(model[2])


def parametrised(model):
    nn.utils.parametrizations.orthogonal(model[0], orthogonal_map="cayley")


def compiled_in_place(model):
    model[2].compile(backend="eager")


CHANGES = [
    decorated,
    hooked,
    holding,
    remembering,
    pruned,
    weight_normed,
    spectral_normed,
    parametrised,
    compiled_in_place,
]


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_models_after_a_step(change, chunk_size):
    """A copy must not decide whether a model can be measured."""
    model = net()
    change(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    keys, modes = {k: set(vars(m)) for k, m in model.named_modules()}, [m.training for m in model.modules()]
    model.eval()
    with warnings.catch_warnings(action="ignore"):  # of the compiler's, about gradients of tensors that are no leaves
        truth = differences(lambda: F.cross_entropy(model(X), Y), model)
    model.train()
    found = HessianOperator(model, "cross_entropy", (X, Y), chunk_size=chunk_size).to_dense()
    assert (found - truth).norm() <= 1e-6 * truth.norm()
    assert keys == {k: set(vars(m)) for k, m in model.named_modules()}
    assert modes == [m.training for m in model.modules()]
    looked = Tracker(model, "cross_entropy", (X, Y), optimizer=optimizer, tolerance=1e-6).look(1)["lambda_max"]
    assert looked == pytest.approx(float(torch.linalg.eigvalsh(truth)[-1]), rel=1e-5)


def test_losses_that_hold_the_model():
    model, other = net(), net()
    parameters, clean = list(model.parameters()), X.flip(0)
    losses = {
        "parameters": lambda o, y: F.cross_entropy(o, y) + 0.1 * sum(p.square().sum() for p in parameters),
        "the model": lambda o, y: F.cross_entropy(o, y) + 0.1 * sum(p.norm() for p in model.parameters()),
        "another pass": lambda o, y: F.cross_entropy(o, y) + F.mse_loss(model(clean[:2]), model(clean[2:4])),
        "a teacher": lambda o, y: F.cross_entropy(o, y) + other(clean).square().mean(),
        "one vector": lambda o, y: F.cross_entropy(o, y) + nn.utils.parameters_to_vector(parameters).pow(4).sum(),
    }
    for loss in losses.values():
        truth = differences(lambda loss=loss: loss(model(X), Y), model)
        for chunk_size in (None, 5):
            assert_right(model, loss, (X, Y), truth, chunk_size=chunk_size)
        assert not trace(HessianOperator(model, loss, (X, Y))).exact or loss is losses["a teacher"]
    with pytest.raises(FlatlibError, match="no Gauss-Newton"):
        GaussNewtonOperator(model, losses["parameters"], (X, Y)).gradient()


class Holding(nn.Module):
    """A loss that is a module and has the model inside."""

    def __init__(self, model):
        super().__init__()
        self.model, self.plain = model, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, output, target):
        return self.plain(output, target) + sum(p.square().sum() for p in self.model.parameters())


def test_losses_that_are_modules_are_cast_along():
    model = net().float()
    found = HessianOperator(model, Holding(model), (X.float(), Y), dtype=torch.float64).to_dense()
    double, loss = net(), Holding(net())
    loss.model, loss.plain.weight = double, loss.plain.weight.double()
    truth = differences(lambda: loss(double(X), Y), double)
    assert (found - truth).norm() <= 1e-5 * truth.norm()
    assert next(model.parameters()).dtype == torch.float32


class Scaled(torch.autograd.Function):
    """The identity, with ten times its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 10 * grad


@pytest.mark.parametrize(
    "function", [Scaled.apply, lambda x: x.round().detach() + x - x.detach(), lambda x: 3 * x.detach() - x]
)
def test_gradients_that_are_not_the_gradient(function):
    model = Net(lambda net, x: net.last(function(net.first(x))), first=nn.Linear(5, 4), last=nn.Linear(4, 3)).double()
    assert_refused(model, "cross_entropy", (X, Y), "not the derivative of the loss")
    with pytest.raises(FlatlibError, match="not the derivative of the loss"):
        measure(["sam_sharpness"], Checkpoint(model=model, examples=(X, Y)))


def test_a_model_that_is_not_measured():
    model, other = net(), net()
    model.forward = other.forward
    assert_refused(model, "cross_entropy", (X, Y), "does not depend on the parameters")


def test_readers_data_are_never_written_to():
    def forward(net, x):
        x.sub_(1).mul_(2)
        return net.inner(x)

    def loss(output, target):
        value = F.cross_entropy(output, target.clamp_(max=1))
        output.detach().zero_()
        return value

    model = Net(forward, inner=net())
    x, y = X.clone(), Y.clone()
    truth = differences(lambda: loss(model(X.clone()), Y.clone()), model)
    for options in ({}, {"chunk_size": 5}):
        assert_right(model, loss, (x, y), truth, **options)
        assert_right(model, loss, [(x[:7], y[:7]), (x[7:], y[7:])], truth, **options)
    top = top_eigenvalues(HessianOperator(model, loss, (x, y)), engine="pyhessian", tol=1e-5).values[0]
    assert float(top) == pytest.approx(float(torch.linalg.eigvalsh(truth)[-1]), rel=1e-4)
    measure(["train_loss", "margin"], Checkpoint(model=model, examples=(x, y), train=(x, y)))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_complex_parameters_are_refused_and_complex_numbers_inside_are_right():
    model = Net(
        lambda net, x: net.layer(torch.fft.rfft(x * net.gains).abs()),
        layer=nn.Linear(3, 3).double(),
        gains=nn.Parameter(torch.rand(5).double()),
    )
    assert_right(model, "cross_entropy", (X, Y), differences(lambda: F.cross_entropy(model(X), Y), model))
    assert_refused(nn.Linear(5, 3, dtype=torch.complex64), "mse", (X, Y), "the parameters are complex")


# Batches of any shape.


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = nn.Linear(5, 3), nn.Embedding(4, 3), nn.Linear(3, 3)

    def forward(self, features, kind, mask=None):
        hidden = torch.tanh(self.one(features) + self.two(kind))
        return {"logits": self.head(hidden if mask is None else hidden * mask[:, None]), "hidden": (hidden, None)}


KIND, MASK = torch.arange(12) % 4, (torch.arange(12) % 3 > 0).double()


def by_logits(output, target):
    return F.cross_entropy(output["logits"], target)


BATCHES = {
    "tuple": lambda: [((X, KIND, MASK), Y)],
    "flat": lambda: [(X, KIND, MASK, Y)],
    "mapping": lambda: [{"features": X, "kind": KIND, "mask": MASK, "labels": Y}],
    "mapping and targets": lambda: [({"features": X, "kind": KIND, "mask": MASK}, Y)],
    "one mapping": lambda: {"features": X, "kind": KIND, "mask": MASK, "label": Y},
    "loader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, KIND, MASK, Y), batch_size=5),
    "arrays": lambda: [(X.numpy(), KIND.numpy(), MASK.numpy(), Y.numpy())],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_batches_of_any_shape(name, chunk_size):
    model = Towers().double()
    truth = differences(lambda: by_logits(model(X, KIND, MASK), Y), model)
    assert_right(model, by_logits, BATCHES[name](), truth, chunk_size=chunk_size)
    top = float(torch.linalg.eigvalsh(truth)[-1])
    numbers = measure(
        ["lambda_max", "train_loss", "minimum_sharpness", "sam_sharpness", "gauss_newton_lambda_max"][:2],
        Checkpoint(model=model, loss=by_logits, examples=BATCHES[name](), train=BATCHES[name](), tolerance=1e-5),
    )
    assert numbers["lambda_max"] == pytest.approx(top, rel=1e-4)
    assert numbers["train_loss"] == pytest.approx(by_logits(model(X, KIND, MASK), Y).item(), rel=1e-9)


def test_losses_of_model_and_batch_and_of_weights():
    model = net()
    batch = {"x": X, "y": Y}
    loss = lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"])  # noqa: E731
    truth = differences(lambda: loss(model, batch), model)
    for chunk_size in (None, 5):
        assert_right(model, loss, [batch], truth, chunk_size=chunk_size)
    weighted = lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"], torch.tensor([1.0, 5, 20]).double())  # noqa: E731
    assert_right(model, weighted, [batch], differences(lambda: weighted(model, batch), model))
    assert_refused(model, weighted, [batch], "do not add up", chunk_size=4)
    weights = torch.rand(12).double()

    def by_weight(output, target, weight):
        return (weight * F.cross_entropy(output, target, reduction="none")).sum() / weight.sum()

    truth = differences(lambda: by_weight(model(X), Y, weights), model)
    for chunk_size in (None, 5):
        assert_right(model, by_weight, (X, Y, weights), truth, chunk_size=chunk_size)
    with pytest.raises(FlatlibError, match="no outputs to linearize"):
        GaussNewtonOperator(model, loss, [batch]).gradient()


def test_outputs_that_are_objects_in_the_gauss_newton_matrix():
    model, wrapped = net(), Net(lambda m, x: {"logits": m.inner(x), "loss": None}, inner=net())
    expected = GaussNewtonOperator(model, "cross_entropy", (X, Y)).to_dense()
    for chunk_size in (None, 5):
        found = GaussNewtonOperator(wrapped, by_logits, (X, Y), chunk_size=chunk_size).to_dense()
        torch.testing.assert_close(found, expected)


def test_batches_that_cannot_be_joined():
    torch.manual_seed(0)
    model = Net(lambda net, x: net.layer(x).mean(1), layer=nn.Linear(2, 3)).double()
    batches = [(torch.randn(4, length, 2).double(), torch.arange(4) % 3) for length in (3, 5, 2)]
    truth = differences(lambda: sum(F.cross_entropy(model(x), y) for x, y in batches) / 3, model)
    for loss in ("cross_entropy", F.cross_entropy, lambda o, y: F.cross_entropy(o, y)):
        assert_right(model, loss, batches, truth)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0]).double())
    assert_refused(model, weighted, batches, "batches of one shape")


def test_arrays_and_inference_tensors():
    model = net()
    truth = differences(lambda: F.cross_entropy(model(X), Y), model)
    assert_right(model, "cross_entropy", (X.numpy(), Y.numpy().astype(np.int32)), truth)
    with torch.inference_mode():
        x, y = X + 0, Y + 0
    assert_right(model, "cross_entropy", (x, y), truth)
    with torch.inference_mode():
        assert_right(model, "cross_entropy", (x, y), truth)
