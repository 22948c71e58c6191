"""Embeddings with every option: the Hessian of the loss, whatever PyTorch gives as its gradient."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from central_differences import assert_measured, loss_differences
from conftest import Net
from flatlib.curvature import HessianOperator
from flatlib.curvature.operators.double_backward_embedding import embedding_bag
from flatlib.errors import FlatlibError

DATA = torch.tensor([[0, 1, 1], [2, 2, 2], [3, 0, 2], [1, 3, 0]]), torch.arange(4) % 2
OFFSETS = torch.tensor([0, 1, 1, 5])
LAYERS = [
    nn.Embedding(4, 2, scale_grad_by_freq=True),
    nn.Embedding(4, 2, sparse=True),
    *[
        nn.EmbeddingBag(4, 2, mode=mode, padding_idx=padding)
        for mode, padding in product(("sum", "mean", "max"), (None, 1))
    ],
    nn.EmbeddingBag(4, 2, scale_grad_by_freq=True),
    nn.EmbeddingBag(4, 2, sparse=True),
]
FUNCTIONS = {
    "frequency": lambda x, w: F.embedding(x, w, scale_grad_by_freq=True),
    "sparse": lambda x, w: F.embedding(x, w, sparse=True),
    "torch": lambda x, w: torch.embedding(w, x, -1, True),
    "offsets": lambda x, w: F.embedding_bag(x.flatten(), w, 3 * torch.arange(len(x))),
    "end": lambda x, w: F.embedding_bag(x.flatten(), w, 3 * torch.arange(len(x) + 1), include_last_offset=True),
    "weighted": lambda x, w: F.embedding_bag(x, w, per_sample_weights=w[x][..., 0].sin(), mode="sum"),
}


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers(layer):
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    model(DATA[0])
    assert_measured(model, F.cross_entropy, DATA, loss_differences(model, F.cross_entropy, DATA))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(FUNCTIONS[name](x, net.inner.weight).tanh().flatten(1)),
        inner=nn.Embedding(4, 2),  # a layer, so that integers are known to be indices
        head=nn.LazyLinear(2),
    ).double()
    model(DATA[0])
    assert_measured(model, F.cross_entropy, DATA, loss_differences(model, F.cross_entropy, DATA))


def test_padding_is_a_constant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 2, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)).double()
    expected = loss_differences(model, F.cross_entropy, DATA)
    expected[2:4] = expected[:, 2:4] = 0
    assert_measured(model, F.cross_entropy, DATA, expected)


@pytest.mark.parametrize("layer", [nn.Embedding(4, 2, max_norm=0.5), nn.EmbeddingBag(4, 2, max_norm=0.5)], ids=str)
def test_weights_that_a_forward_pass_changes_are_refused(layer):
    before = layer.weight.clone()
    with pytest.raises(FlatlibError, match=r"max_norm=0\.5 changes its weights"):
        HessianOperator(nn.Sequential(layer, nn.Flatten()), "mse", DATA).gradient()
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -2])
@pytest.mark.parametrize("offsets", [None, OFFSETS])
@pytest.mark.parametrize("last", [True, False])
def test_bags_are_those_of_pytorch(mode, padding, offsets, last):
    """Empty ones and those of padding alone as well."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64)
    indices = DATA[0] if offsets is None else DATA[0].flatten()
    options = {"mode": mode, "padding_idx": padding}
    if offsets is not None:
        options |= {
            "offsets": torch.cat([offsets, torch.tensor([12])]) if last else offsets,
            "include_last_offset": last,
        }
    for factors in [None, torch.randn(indices.shape, dtype=torch.float64)] if mode == "sum" else [None]:
        ours, theirs = (
            f(indices, weight, per_sample_weights=factors, **options) for f in (embedding_bag, F.embedding_bag)
        )
        torch.testing.assert_close(ours, theirs)
