import pytest
import torch
from torch import nn

from flatlib.errors import FlatlibError
from flatlib.sharpness import margin

X = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [-1.0, -5.0]])
Y = torch.tensor([0, 0, 1, 2])


def planes():
    """Outputs x_0, x_1 and 0."""
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        model.bias.zero_()
    return model


def test_by_hand():
    outputs = margin(planes(), (X, Y), normalise="none", quantiles=(0.0, 0.5))
    assert outputs.values.tolist() == [2.0, -1.0, 3.0, 1.0]
    assert outputs.quantiles == {0.0: -1.0, 0.5: 1.5}
    batches = margin(planes(), [(X[:1], Y[:1]), (X[1:], Y[1:])], normalise="none", quantiles=(1.0,))
    assert (batches.values.tolist(), batches.quantiles) == (outputs.values.tolist(), {1.0: 3.0})
    # slopes of the differences: e0 - e1 (of classes 1 and 2, equal, the first), e0 - e1, e1 - e0, -e0
    distances = margin(planes(), (X, Y)).values
    lengths = torch.tensor([2.0, 2.0, 2.0, 1.0]).double().sqrt()
    torch.testing.assert_close(distances, torch.tensor([2.0, -1.0, 3.0, 1.0]).double() / lengths)


@pytest.mark.parametrize("chunk_size", [1000, 5])
def test_distance_by_the_dense_gradient(model_case, chunk_size):
    model = model_case.model.eval()
    found = margin(model, model_case.data, chunk_size=chunk_size)
    for x, y, value in zip(*model_case.data, found.values, strict=True):
        x = x.unsqueeze(0).requires_grad_()
        output = model(x)[0]
        gap = output[y] - max(value for c, value in enumerate(output) if c != y)
        gap.backward()
        assert float(value) == pytest.approx(float(gap.detach() / x.grad.norm()), rel=1e-9)


def test_words_have_no_distances():
    model = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 3))
    words = torch.arange(12).view(4, 3) % 5
    expected = model(words)
    found = margin(model, (words, Y), normalise="none").values
    assert float(found[0]) == pytest.approx(float((expected[0, 0] - expected[0, 1:].max()).detach()))
    with pytest.raises(FlatlibError, match="have no distances"):
        margin(model, (words, Y))


class Constant(nn.Linear):
    def forward(self, x):
        return self.bias.expand(len(x), -1)


@pytest.mark.parametrize(
    ("model", "data", "arguments", "message"),
    [
        (planes(), (X, Y), {"normalise": "spectral"}, "choose one of input, none"),
        (planes(), (X, Y), {"quantiles": (1.5,)}, "shares between 0 and 1"),
        (planes(), (X, Y), {"chunk_size": 0}, "chunk_size=0"),
        (planes(), (X, X), {}, "one class per sample"),
        (planes(), (X, Y + 1), {}, "classes from 1 to 3"),
        (nn.Linear(2, 1), (X, Y), {}, "more than one class"),
        (planes(), (X * torch.inf, Y), {}, "not finite"),
        (Constant(2, 3), (X, Y), {}, "do not depend on the inputs"),
        (nn.Sequential(nn.Threshold(10.0, 0.0), nn.Linear(2, 3)), (X, Y), {}, "4 samples"),
    ],
)
def test_bad_input_is_refused(model, data, arguments, message):
    with pytest.raises(FlatlibError, match=message):
        margin(model, data, **arguments)
