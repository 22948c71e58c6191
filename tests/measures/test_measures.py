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
from flatlib.losses import SmoothedCrossEntropy
from flatlib.measures import REGISTRY, Checkpoint, measure
from flatlib.names import MEASURES
from flatlib.sharpness import between_iterates
from flatlib.training.train import checkpoint, next_iterate, train

COMPANIONS = (
    *("residual", "products", "converged", "error", "exact", "alignment"),
    *("frank_wolfe_gap", "version"),
)
WITHOUT_A_COLUMN = {"performance", "density", "cross_entropy", "jacobian_norms"}  # named by their parts instead


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
    undefined = {name for name, value in run.measures.items() if value is None or not math.isfinite(value)}
    assert undefined == {"preconditioned_lambda_max"}  # SGD has no preconditioner
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


PLAIN = ("performance", "cross_entropy", "lambda_max", "cross_entropy_lambda_max")
JACOBIANS = ("jacobian_norm", "softmax_jacobian_norm")


def test_plain_cross_entropy_beside_the_smoothed_loss():
    """Both losses and both sharpnesses of one run, against the networks' own outputs and the dense Hessians."""
    settings = {"label_smoothing": 0.4, "train_size": 60, "test_size": 40, "measures": PLAIN, "tolerance": 1e-5}
    smoothed = train(RunConfig(width=0.03, depth=1, max_epochs=40, **settings), device="cpu")
    found, data = smoothed.measures, smoothed.data
    with torch.no_grad():
        train_outputs, test_outputs = (smoothed.model.eval()(x) for x in (data.x_train, data.x_test))
    losses = [
        nn.functional.cross_entropy(train_outputs, data.y_train).item(),
        nn.functional.cross_entropy(test_outputs, data.y_test).item(),
    ]
    assert [found["train_cross_entropy"], found["test_cross_entropy"]] == pytest.approx(losses, rel=1e-5)
    assert found["cross_entropy_gap"] == pytest.approx(abs(losses[0] - losses[1]), rel=1e-4)
    assert found["train_loss"] == pytest.approx(SmoothedCrossEntropy(0.4)(train_outputs, data.y_train).item(), rel=1e-4)
    for name, loss in (("lambda_max", SmoothedCrossEntropy(0.4)), ("cross_entropy_lambda_max", "cross_entropy")):
        dense = HessianOperator(smoothed.model, loss, data.measured(1000), dtype=torch.float64).to_dense()
        assert found[name] == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3)
    assert found["cross_entropy_lambda_max"] != pytest.approx(found["lambda_max"], rel=5e-3)


def test_both_losses_agree_without_smoothing(run):
    for split in ("train", "test"):
        assert run.measures[f"{split}_cross_entropy"] == run.measures[f"{split}_loss"]
    assert run.measures["cross_entropy_gap"] == run.measures["loss_gap"]
    assert run.measures["cross_entropy_lambda_max"] == pytest.approx(run.measures["lambda_max"], rel=1e-3)


def test_both_jacobians_from_one_measure(run):
    one = measure(JACOBIANS, checkpoint(run))
    both = measure(["jacobian_norms"], checkpoint(run))
    assert both == pytest.approx(one, rel=1e-5)
    assert set(both) == {f"{name}{ending}" for name in JACOBIANS for ending in ("", "_mean")}
    assert both["jacobian_norm"] > 1.05 * both["jacobian_norm_mean"]
    settings = {"track": ("jacobian_norms", "jacobian_lower_bound"), "track_every": 2, "measures": ()}
    tracked = train(replace(run.config, max_epochs=3, **settings), device="cpu")
    assert set(both) | {"jacobian_lower_bound_misfit"} < set(tracked.trajectory)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_preconditioned_sharpness_of_a_run(optimizer):
    settings = {"train_size": 60, "test_size": 40, "learning_rate": 0.01, "tolerance": 1e-5}
    tracked = {"track": ("preconditioned_lambda_max", "weight_norm"), "track_every": 2}
    named = {"measures": ("preconditioned_lambda_max",), "stop": "updates", "max_updates": 6}
    run = train(RunConfig(width=0.03, depth=1, optimizer=optimizer, **settings, **tracked, **named), device="cpu")
    H = HessianOperator(run.model, "cross_entropy", run.data.measured(60), dtype=torch.float64).to_dense()
    states = [run.optimizer.state[p] for p in run.model.parameters()]
    second = torch.cat([state["exp_avg_sq"].double().flatten() for state in states]) / (1 - 0.999**6)
    scale = ((1 - 0.9**6) * (second.sqrt() + 1e-8)).rsqrt()
    top = float(torch.linalg.eigvalsh(scale[:, None] * H * scale)[-1])
    assert run.measures["preconditioned_lambda_max"] == pytest.approx(top, rel=1e-3)
    column = run.trajectory["preconditioned_lambda_max"]
    assert column[0] is None  # Adam has no state yet
    assert column[3] == pytest.approx(top, rel=1e-3)
    assert {len(values) for values in run.trajectory.values()} == {4}
    assert run.trajectory["preconditioned_lambda_max_products"][0] is None


@pytest.mark.parametrize("settings", [{"optimizer": "adagrad"}, {"optimizer": "adam", "averaging_start": 0.5}], ids=str)
def test_no_preconditioned_sharpness(settings):
    """Of another optimizer, or of an average of iterates, which Adam's state does not belong to."""
    few = {"train_size": 60, "test_size": 40, "max_epochs": 2, "stop": "epochs", "learning_rate": 0.01}
    run = train(RunConfig(width=0.03, measures=("preconditioned_lambda_max",), **few, **settings), device="cpu")
    assert run.measures["preconditioned_lambda_max"] is None


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
