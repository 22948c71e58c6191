"""The registry: every measure on one checkpoint, of a run or of a reader's own network."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from flatlib.book.paths import find_root
from flatlib.config import RunConfig
from flatlib.curvature import HessianOperator
from flatlib.errors import FlatlibError
from flatlib.figures.axes import axis_of
from flatlib.measures import REGISTRY, Checkpoint, measure
from flatlib.names import MEASURES
from flatlib.sharpness import between_iterates
from flatlib.training.train import checkpoint, next_iterate, train

COMPANIONS = (
    *("residual", "products", "converged", "error", "exact", "alignment"),
    *("frank_wolfe_gap", "version"),
)
WITHOUT_A_COLUMN = {"performance", "density"}  # named by their parts instead


@pytest.fixture(scope="module")
def run():
    return train(
        RunConfig(width=0.03, depth=1, train_size=60, test_size=40, max_epochs=40, measures=MEASURES), device="cpu"
    )


def test_every_measure_is_explained():
    page = (find_root() / "book" / "method" / "curvature.md").read_text(encoding="utf-8")
    section = page.partition("(measures)=")[2].partition("(intervals)=")[0]
    assert [name for name in REGISTRY if f"`{name}`" not in section] == []


def test_every_measure_has_an_axis(run):
    assert all(math.isfinite(value) for value in run.measures.values())
    assert set(run.measures) > (set(MEASURES) | set(REGISTRY)) - WITHOUT_A_COLUMN
    for name in run.measures:
        if name != "updates" and not name.endswith(COMPANIONS) and not name.startswith("density_"):
            assert axis_of(name).name


def density_of(numbers):
    """Nodes and weights, which are numbered."""
    kinds = [sorted(name for name in numbers if name.startswith(f"density_{kind}_")) for kind in ("node", "weight")]
    assert [len(names) for names in kinds] == [len(kinds[0])] * 2
    assert [int(name[-2:]) for name in kinds[0]] == list(range(len(kinds[0])))
    return ([numbers[name] for name in names] for names in kinds)


def test_density_nodes_and_weights(run):
    nodes, weights = density_of(run.measures)
    assert nodes == sorted(nodes)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    operator = HessianOperator(run.model, "cross_entropy", run.data.measured(run.config.measure_size))
    n = operator.shape[0]
    assert weights[-1] == pytest.approx(1 / n)  # of what is deflated, the largest eigenvalue first
    second = sum(node**2 * weight for node, weight in zip(nodes, weights, strict=True))
    error = run.measures["density_relative_error"]
    assert 0 < error < 0.1
    assert second**0.5 == pytest.approx(float(operator.to_dense().norm()) / n**0.5, rel=3 * error)
    assert nodes[-1] == pytest.approx(run.measures["lambda_max"], rel=1e-6)


def test_density_of_a_small_matrix():
    torch.manual_seed(0)
    mine = Checkpoint(model=nn.Linear(2, 2), examples=(torch.randn(9, 2), torch.arange(9) % 2))
    numbers = measure(["density"], mine)
    nodes, weights = density_of(numbers)
    assert 1 < len(nodes) <= 7
    assert sum(weights) == pytest.approx(1)


def test_values_of_the_dense_hessian(run):
    images = run.data.measured(run.config.measure_size)
    dense = HessianOperator(run.model, "cross_entropy", images, dtype=torch.float64).to_dense()
    spectrum = torch.linalg.eigvalsh(dense)
    expected = {
        "lambda_max": spectrum[-1],
        "lambda_min": spectrum[0],
        "trace": spectrum.sum(),
        "frobenius": spectrum.norm(),
        "frobenius_per_parameter": spectrum.square().mean(),
    }
    for name, value in expected.items():
        error = 4 * run.measures.get(f"{name}_standard_error", 0.0)
        assert run.measures[name] == pytest.approx(float(value), rel=2e-2, abs=error), name


def test_between_this_iterate_and_the_next(run):
    before = {name: p.clone() for name, p in run.model.named_parameters()}
    after = next_iterate(run)
    assert all((p - before[name]).abs().max() > 0 for name, p in after.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    found = between_iterates(run.model, after, "cross_entropy", run.data.measured(1000))
    assert run.measures["between_iterates"] == pytest.approx(found.value, rel=1e-3)


def test_users_own_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    batches = [(torch.randn(7, 6), torch.randn(7, 2)), (torch.randn(4, 6), torch.randn(4, 2))]
    numbers = measure(["lambda_max", "trace", "jacobian_norm"], Checkpoint(model=model, examples=batches, loss="mse"))
    spectrum = torch.linalg.eigvalsh(HessianOperator(model, "mse", batches).to_dense())
    assert numbers["lambda_max"] == pytest.approx(float(spectrum[-1]), rel=1e-3)
    assert numbers["trace"] == pytest.approx(float(spectrum.sum()), abs=5 * numbers["trace_standard_error"])


def test_undefined_measures_are_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    mine = Checkpoint(model=model, examples=(torch.randn(9, 6), torch.arange(9) % 2))
    numbers = measure(["minimum_sharpness", "between_iterates", "weight_norm"], mine)
    assert numbers["minimum_sharpness"] is numbers["between_iterates"] is None
    assert numbers["weight_norm"] > 0
    assert measure(["batch_sharpness"], mine)["batch_sharpness"] is None
    assert measure(["batch_sharpness"], replace(mine, batch_size=10))["batch_sharpness"] is None
    assert measure(["batch_sharpness"], replace(mine, batch_size=4))["batch_sharpness_standard_error"] > 0
    with pytest.raises(FlatlibError, match="train images"):
        measure(["performance"], mine)


def test_undefined_measures_cannot_be_tracked():
    tracking = {"track": ("minimum_sharpness",), "track_every": 1}
    config = RunConfig(width=0.03, train_size=60, test_size=40, max_epochs=1, activation="tanh", **tracking)
    with pytest.raises(FlatlibError, match="minimum_sharpness is not defined"):
        train(config, device="cpu")


def test_checkpoint_follows_its_configuration(run):
    mine = checkpoint(run)
    assert len(mine.examples[0]) == 60
    assert (mine.batch_norm, mine.engine, mine.tolerance) == ("eval", "lanczos", 1e-3)
    assert mine.batch_size == run.config.batch_size
