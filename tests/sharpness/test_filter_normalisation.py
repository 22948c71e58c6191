"""Filter-normalised random directions: every filter at its norm, invariance to the filters' scale, and their use."""

import copy

import pytest
import torch
from torch import nn

from conftest import assert_untouched, snapshot
from flatlib.errors import FlatlibError
from flatlib.sharpness import filter_normalised_directions, loss_along, loss_in_plane


def network():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    return nn.Sequential(*layers).double()


DATA = torch.randn(6, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5


def reference(model, seed):
    """Normalise as ``net_plotter.py`` of the authors does, filter by filter, in Python's loops."""
    generator, pieces = torch.Generator().manual_seed(seed), []
    for w in (p.detach() for p in model.parameters()):
        if w.dim() <= 1:
            pieces.append(torch.zeros_like(w))
            continue
        piece = torch.randn(w.size(), generator=generator, dtype=torch.float64)
        for d, filter_ in zip(piece, w, strict=True):
            d.mul_(filter_.norm() / (d.norm() + 1e-10))
        pieces.append(piece)
    return torch.cat([piece.flatten() for piece in pieces])


def test_first_direction_is_that_of_the_authors():
    model = network()
    before = snapshot(model)
    directions = filter_normalised_directions(model, 3, seed=4)
    torch.testing.assert_close(directions[:, 0], reference(model, 4), rtol=1e-8, atol=0)
    torch.testing.assert_close(directions[:, :2], filter_normalised_directions(model, 2, seed=4))
    assert not torch.allclose(directions[:, 0], directions[:, 1])
    assert_untouched(model, before)


def test_landscape_is_that_of_the_steps_as_they_are():
    """A step of 1 is the whole direction, of whatever length, and the two need no right angle."""
    model = network()
    directions = filter_normalised_directions(model)
    moved = copy.deepcopy(model).eval()

    def loss_at(s, t):
        weights = nn.utils.parameters_to_vector(model.parameters()).detach()
        nn.utils.vector_to_parameters(weights + s * directions[:, 0] + t * directions[:, 1], moved.parameters())
        with torch.no_grad():
            return nn.functional.cross_entropy(moved(DATA[0]), DATA[1]).item()

    subject = model, "cross_entropy", DATA
    plane = loss_in_plane(*subject, directions, radius=1.0, points=3, unit="direction")
    assert plane["loss"].to_numpy() == pytest.approx([loss_at(s, t) for s in (-1, 0, 1) for t in (-1, 0, 1)])
    named = {"first": directions[:, 0]}
    line = loss_along(*subject, named, radius=1.0, points=3, unit="direction")
    assert line["loss"].to_numpy() == pytest.approx([loss_at(s, 0) for s in (-1, 0, 1)])
    length = float(directions[:, 0].norm())
    unit = loss_along(*subject, named, radius=length, points=3)
    assert unit["loss"].to_numpy() == pytest.approx(line["loss"].to_numpy())
    assert line["curvature"][0] == pytest.approx(length**2 * unit["curvature"][0])
    assert line["quadratic"].to_numpy() == pytest.approx(unit["quadratic"].to_numpy())
    with pytest.raises(FlatlibError, match='unit="direction"'):
        loss_in_plane(*subject, directions, radius=1.0)


def test_scale_of_a_filter_under_batch_norm_changes_nothing():
    model = network()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight.mul_(torch.tensor([0.1, 2.0, 1.0, 7.0]).view(4, 1, 1, 1))
        scaled[0].bias.mul_(torch.tensor([0.1, 2.0, 1.0, 7.0]))
    curves = []
    for net in (model, scaled):
        options = {"radius": 1.0, "points": 5, "unit": "direction", "batch_norm": "train"}
        curves.append(
            loss_along(net, "cross_entropy", DATA, {"d": filter_normalised_directions(net, 1)[:, 0]}, **options)["loss"]
        )
    assert curves[1].to_numpy() == pytest.approx(curves[0].to_numpy(), rel=1e-3)  # batch norm's epsilon


def test_parameters_dtype_and_filters_of_zeros():
    model = network().float()
    with torch.no_grad():
        model[5].weight[2] = 0
        model[5].weight[3] = 1e30  # its square overflows in float32
    found = filter_normalised_directions(model, 2, parameters="5.*")
    assert (found.shape, found.dtype) == ((25, 2), torch.float32)
    norms = found[:20, 0].view(5, 4).norm(dim=1)
    assert norms[2] == 0
    assert found[15:].isfinite().all()
    assert found[12:16, 0].double().norm() == pytest.approx(2e30)
    assert not found[20:].any(), "biases do not move"


def test_bad_input_is_one_line():
    with pytest.raises(FlatlibError, match="k=0 must be at least 1"):
        filter_normalised_directions(network(), 0)
    with pytest.raises(FlatlibError, match="BatchNorm2d has no filter of finite and positive norm"):
        filter_normalised_directions(nn.BatchNorm2d(3))
    with pytest.raises(FlatlibError, match='no parameter matches "head"'):
        filter_normalised_directions(network(), parameters="head")
