"""What every sharpness measure promises: the model as it was, and one line for what cannot be measured."""

import copy
from contextlib import nullcontext

import pytest
import torch
from conftest import assert_untouched, snapshot
from torch import nn

from flatlib.errors import FlatlibError
from flatlib.sharpness import (
    adaptive_sharpness,
    average_adaptive_sharpness,
    batch_sharpness,
    between_iterates,
    critical_sharpness,
    input_lambda_max,
    jacobian_lower_bound,
    keskar_sharpness,
    loss_along,
    loss_along_eigenvectors,
    loss_in_plane,
    margin,
    minimum_sharpness,
    sam_sharpness,
)

MEASURES = {
    "along": lambda model, loss, data: loss_along(model, loss, data, {"v": V[:, 0]}, radius=0.1, points=3),
    "adaptive": adaptive_sharpness,
    "average": average_adaptive_sharpness,
    "bound": jacobian_lower_bound,
    "box": lambda model, loss, data: adaptive_sharpness(model, loss, data, norm="linf", normalize_logits=True),
    "batch": lambda model, loss, data: batch_sharpness(model, loss, data, batch_size=5, batches=3),
    "critical": critical_sharpness,
    "between": lambda model, loss, data: between_iterates(model, copy.deepcopy(model), loss, data, points=2),
    "inputs": input_lambda_max,
    "keskar": keskar_sharpness,
    "lines": lambda model, loss, data: loss_along_eigenvectors(model, loss, data, points=3),
    "margin": lambda model, loss, data: margin(model, data),
    "plane": lambda model, loss, data: loss_in_plane(model, loss, data, V, radius=0.1, points=3),
    "minimum": minimum_sharpness,
    "sam": sam_sharpness,
}
V = torch.eye(48)[:, :2]  # of the trainable parameters below
X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    nn.functional.cross_entropy(model(X), Y).backward()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", MEASURES)
def test_model_stays_as_it_was(name):
    model = network()
    before = snapshot(model)
    MEASURES[name](model, "cross_entropy", (X, Y))
    assert_untouched(model, before)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (network, (X[:0], Y[:0]), "empty"),
        (network, [], "empty"),
        (network, (X.byte(), Y), "uint8|integer inputs"),
        (network, (X * torch.nan, Y), "finite|the loss is nan"),
        (nn.Flatten, (X, Y), "no parameter"),
    ],
    ids=["no-rows", "no-batches", "integers", "nan", "no-parameter"],
)
def test_bad_input_is_one_line(name, model, data, message):
    with pytest.raises(FlatlibError, match=message) as error:
        MEASURES[name](model(), "cross_entropy", data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MEASURES)
def test_deterministic_where_gradients_are_off(name):
    found = []
    for mode in (nullcontext, torch.no_grad, torch.inference_mode):
        model = network()
        with mode():
            found.append(str(MEASURES[name](model, "cross_entropy", (X, Y))))
    assert len(set(found)) == 1
