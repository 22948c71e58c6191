"""What is not of the kind that it seems to be has no exact trace, whichever example shows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlib.curvature import HessianOperator
from flatlib.curvature.traces.exact import exact_traces


class Mixed(nn.Module):
    """A ReLU network, and what becomes of its outputs (N, 3)."""

    def __init__(self, mix=lambda h: h):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 3)
        self.mix = mix

    def forward(self, x):
        return self.mix(self.head(F.relu(self.b(F.relu(self.a(x))))))


def operator(mix=lambda h: h):
    torch.manual_seed(0)
    x = torch.randn(7, 8, dtype=torch.float64)
    x[0] = 0
    return HessianOperator(Mixed(mix).double(), "cross_entropy", (x, torch.arange(7) % 3))


def test_an_honest_network_is_exact():
    honest = operator()
    assert sum(exact_traces(honest).values()) == pytest.approx(float(honest.to_dense().trace()), rel=1e-10)


MIXING = {
    "the next one": lambda h: h + F.pad(h[1:], (0, 0, 0, 1)),
    "the previous one": lambda h: h + F.pad(h[:-1], (0, 0, 1, 0)),
    "the first one": lambda h: torch.cat([h[:1], h[1:] + h[:1]]),
    "the last one": lambda h: torch.cat([h[:-1] + h[-1:], h[-1:]]),
    "all before": lambda h: h.cumsum(0),
    "all after": lambda h: h.flip(0).cumsum(0).flip(0),
    "the mean": lambda h: h - h.mean(0),
}


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_outputs_that_hold_other_examples(mix):
    assert exact_traces(operator(mix)) is None


@pytest.mark.parametrize("layer", ["a", "b", "head"])
def test_a_layer_that_lies_where_the_checked_example_does_not_show_it(layer):
    """The first example is zero, and all that it passes through dead: no gradient of the first two layers is seen."""
    lying = operator()
    lying.model.b.bias.data.fill_(-100.0)
    module = getattr(lying.model, layer)
    module.forward = lambda x: 2 * F.linear(x, module.weight, module.bias)
    assert exact_traces(lying) is None
