"""Outputs, inputs and batches that hold tensors where nothing can see them, in chunks of any size."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Net
from small_hessians import REAL, WEIGHTS, X, Y, assert_refused, assert_right, net

IGNORED = Y.where(Y > 0, -100)
PRIOR = torch.distributions.Normal(torch.zeros(3).double(), torch.ones(3).double())


class Called(Net):
    """A net of several inputs."""

    def forward(self, *inputs):
        return self.function(self, *inputs)


OBJECT = Net(lambda m, x: SimpleNamespace(logits=m.inner(x)), inner=net())
CACHED = Net(lambda m, x: {"logits": m.inner(x), "cache": SimpleNamespace()}, inner=net())
VARIATIONAL = Net(lambda m, x: (m.inner(x), torch.distributions.Normal(m.inner(x), 1.0)), inner=net())
LABELLED = Called(lambda m, x, y: SimpleNamespace(loss=F.cross_entropy(m.inner(x), y, WEIGHTS)), inner=net())


def variational(reduced):
    return lambda o, y: F.mse_loss(o[0], y) + reduced(torch.distributions.kl_divergence(o[1], PRIOR))


CHUNKED = {
    "object": (OBJECT, lambda o, y: F.cross_entropy(o.logits, y), X, Y),
    "ignored": (CACHED, lambda o, y: F.cross_entropy(o["logits"], y), X, IGNORED),
    "weighted": (CACHED, lambda o, y: F.cross_entropy(o["logits"], y, WEIGHTS), X, Y),
    "distribution": (VARIATIONAL, variational(lambda kl: kl.sum(1).mean()), X, REAL),
}


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("chunk_size", [None, 5, 1])
def test_objects_in_chunks(name, chunk_size):
    model, loss, x, y = CHUNKED[name]
    assert_right(model, loss, (x, y), lambda: loss(model(x), y), chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [5, 1])
def test_objects_whose_chunks_do_not_add_up(chunk_size):
    weighted = (lambda o, y: F.cross_entropy(o.logits, y, WEIGHTS), (X, Y))
    assert_refused(OBJECT, *weighted, "do not add up", chunk_size=chunk_size)
    assert_refused(LABELLED, lambda o, y: o.loss, ((X, Y), Y), "do not add up", chunk_size=chunk_size)
    assert_refused(VARIATIONAL, variational(lambda kl: kl.sum()), (X, REAL), "sum over", chunk_size=chunk_size)


class Graph:
    """Inputs of an unknown class, which all look the same."""

    def __init__(self, nodes):
        self.nodes = nodes

    def __repr__(self):
        return "Graph"


@pytest.mark.parametrize("chunk_size", [None, 5, 1])
def test_inputs_that_are_not_tensors(chunk_size):
    graphs = Net(lambda m, graph: m.inner(graph.nodes), inner=net())
    batches = [(Graph(X[:6]), REAL[:6]), (Graph(X[6:]), REAL[6:])]
    assert_right(graphs, "mse", batches, lambda: F.mse_loss(graphs(Graph(X)), REAL), chunk_size=chunk_size)
    lengths = [3, 1, 2, 3, 2, 1] * 2
    words = torch.randn(12, 3, 2, dtype=torch.float64)
    ragged = Called(
        lambda m, x, n: m.layer(torch.stack([row[:k].mean(0) for row, k in zip(x, n, strict=True)])),
        layer=nn.Linear(2, 3).double(),
    )
    batches = [((words[:6], lengths[:6]), Y[:6]), ((words[6:], lengths[6:]), Y[6:])]
    value = lambda: F.cross_entropy(ragged(words, lengths), Y)  # noqa: E731
    assert_right(ragged, "cross_entropy", batches, value, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", [None, 2, 1])
@pytest.mark.parametrize("model_and_batch", [True, False])
def test_ragged_batches_of_objects(chunk_size, model_and_batch):
    model = Net(lambda m, x: SimpleNamespace(logits=m.layer(x).mean(1)), layer=nn.Linear(2, 3).double())
    sizes = ((4, 3), (5, 5), (1, 2))
    batches = [(torch.randn(n, length, 2, dtype=torch.float64), torch.arange(n) % 3) for n, length in sizes]
    plain = lambda o, y: F.cross_entropy(o.logits, y)  # noqa: E731
    loss = (lambda model, batch: plain(model(batch[0]), batch[1])) if model_and_batch else plain
    value = lambda: sum(len(y) * plain(model(x), y) for x, y in batches) / 10  # noqa: E731
    assert_right(model, loss, batches, value, chunk_size=chunk_size)
