"""One run: the same bits every time, the stop rules, divergence, the trajectory."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import dense_hessian
from torch import nn

from flatlib.config import RunConfig
from flatlib.device import seeded
from flatlib.measures import evaluate
from flatlib.training.data import load
from flatlib.training.models import build
from flatlib.training.optim import SCHEDULES, build_optimizer
from flatlib.training.train import DROPOUT, NEAR, TrainedRun, next_iterate, train

CPU = torch.device("cpu")
TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3)
TRACKED = replace(TINY, track=("train_loss", "lambda_max", "softmax_jacobian_norm"), track_every=4)
NEVER = {"stop": "train_loss", "stop_value": 1e-9}


def run(config: RunConfig = TINY, **settings) -> TrainedRun:
    return train(replace(config, **settings), device="cpu")


def weights(trained: TrainedRun) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trained.model.parameters()).detach()


def same(one: TrainedRun, other: TrainedRun) -> bool:
    results = [(r.status, r.updates, r.measures, r.trajectory) for r in (one, other)]
    return torch.equal(weights(one), weights(other)) and results[0] == results[1]


@pytest.mark.parametrize(
    "settings", [{}, {"model": "small_cnn", "width": 0.25, "max_epochs": 1}, {"model": "softmax_regression"}], ids=str
)
def test_runs_ignore_thread_count(settings):
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            results.append(run(TRACKED, **settings))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert same(results[0], results[1])
    assert same(results[1], results[2])


def by_hand(config: RunConfig) -> torch.Tensor:
    """Plain PyTorch: SAM around SGD in shuffled epochs, whose last batch holds the images that remain."""
    data = load(config, CPU)
    model = build(config, data.image_shape, data.classes).train()
    order, size = torch.Generator().manual_seed(config.seed + 0x5EED), config.batch_size or 200
    optimizer = torch.optim.SGD(model.parameters(), 1, config.momentum, weight_decay=config.weight_decay)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    with seeded(config.seed + DROPOUT, CPU):
        for epoch in range(config.max_epochs):
            factor = SCHEDULES[config.schedule](epoch / config.max_epochs)
            optimizer.param_groups[0]["lr"] = config.learning_rate * factor
            for batch in torch.randperm(200, generator=order).split(size):
                x, y = data.x_train[batch], data.y_train[batch]
                gradients = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
                length = torch.cat([g.flatten() for g in gradients]).norm()
                before = [p.detach().clone() for p in model.parameters()]
                if config.sam_rho:
                    with torch.no_grad():
                        for p, g in zip(model.parameters(), gradients, strict=True):
                            p += config.sam_rho * g / length
                    gradients = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
                for p, g, old in zip(model.parameters(), gradients, before, strict=True):
                    p.data, p.grad = old, g
                optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


EVERYTHING = {"optimizer": "heavy_ball", "momentum": 0.9, "weight_decay": 1e-3, "sam_rho": 0.1, "max_epochs": 6}
EVERYTHING |= {"label_smoothing": 0.1, "schedule": "granziol"}


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_size": 64}, {"batch_size": 0}, {"batch_size": 0, "microbatch": 64}, {"dropout": 0.3}, EVERYTHING],
    ids=str,
)
def test_plain_loop(settings):
    trained = run(stop="epochs", **settings)
    torch.testing.assert_close(weights(trained), by_hand(trained.config), rtol=1e-4, atol=1e-5)
    assert trained.updates == trained.config.max_epochs * math.ceil(200 / (trained.config.batch_size or 200))


@pytest.mark.parametrize(
    ("stop", "value", "measure"), [("train_accuracy", 0.9, "train_accuracy"), ("train_loss", 0.5, "train_loss")]
)
def test_stop_rules(stop, value, measure):
    settings = {"stop": stop, "stop_value": value, "max_epochs": 100, "check_every": 3}
    trained = run(**settings, track=("train_loss",), track_every=3, measures=("performance",))
    holds = [x >= value if stop == "train_accuracy" else x <= value for x in trained.trajectory[measure]]
    assert (trained.status, trained.updates) == ("reached", trained.trajectory["update"][-1])
    assert holds.index(True) == len(holds) - 1
    assert trained.measures[measure] == trained.trajectory[measure][-1]


def test_limits():
    """Epochs and updates are stop rules as well as caps."""
    rules = [{"stop": "epochs"}, {"stop": "epochs", "max_updates": 12}]
    rules += [{"stop": "updates", "max_updates": 5}, {"stop": "updates", "max_updates": 12}]
    assert [(r.status, r.updates) for r in (run(**rule) for rule in rules)] == [("reached", n) for n in (12, 12, 5, 12)]
    capped = run(**NEVER), run(**NEVER, max_updates=3)
    assert [(r.status, r.updates) for r in capped] == [("capped", 12), ("capped", 3)]


def test_last_update_is_checked():
    trained = run(check_every=5, stop="train_loss", stop_value=2.3, max_epochs=1, batch_size=60)
    assert (trained.status, trained.updates) == ("reached", 4)
    assert trained.measures["lambda_max"] > 0
    assert run(check_every=1000, **NEVER).measures.keys() == trained.measures.keys()


@pytest.mark.parametrize("rate", [1e8, 1e20, 1e38])
@pytest.mark.parametrize("tracked", [(), ("train_loss",), ("lambda_max", "softmax_jacobian_norm", "gradient_norm")])
@pytest.mark.parametrize("every", [1, 3])
def test_divergence(rate, tracked, every):
    track = {"track": tracked, "track_every": every} if tracked else {}
    trained = run(learning_rate=rate, check_every=7, **track, measures=("performance", "lambda_max", "jacobian_norm"))
    assert (trained.status, trained.measures) == ("diverged", {"updates": 7})
    assert len({len(column) for column in trained.trajectory.values()}) <= 1


def test_matched_loss():
    trained = run(max_epochs=100, matched_loss=0.8, check_every=1, track=("train_loss",), track_every=1)
    losses, found = trained.trajectory["train_loss"], trained.measures
    first = next(i for i, loss in enumerate(losses) if loss <= 0.8)
    assert (found["update_at_loss"], found["train_loss_at_loss"]) == (first, losses[first])
    plain = run(max_epochs=100, check_every=1)
    assert torch.equal(weights(plain), weights(trained))
    assert plain.measures == {k: v for k, v in found.items() if not k.endswith("_at_loss")}
    at_loss = {*(f"{name}_at_loss" for name in plain.measures if name != "updates"), "update_at_loss"}
    assert found.keys() - plain.measures.keys() == at_loss
    unmatched = run(matched_loss=1e-6).measures  # null and not absent: a table has the columns that a figure needs
    assert {name for name, value in unmatched.items() if value is None} == at_loss


@pytest.mark.parametrize("every", [1, 3])
def test_closer_checks_for_the_matched_loss(every):
    """They find the level sooner than the checks of the stop rule, and change nothing else."""
    settings = {"max_epochs": 100, "matched_loss": 0.8, "check_every": 20, "track": ("train_loss",), "track_every": 1}
    coarse, fine = run(**settings), run(**settings, matched_loss_every=every)
    losses = fine.trajectory["train_loss"]
    near = next(update for update in range(20, len(losses), 20) if losses[update] <= NEAR * 0.8)
    first = next(n for n in range(near, len(losses)) if losses[n] <= 0.8 and n % (every if n % 20 else 1) == 0)
    assert near < first < coarse.measures["update_at_loss"]
    found = fine.measures
    assert (found["update_at_loss"], found["train_loss_at_loss"]) == (first, losses[first])
    assert 0.9 * 0.8 < losses[first] <= 0.8
    assert torch.equal(weights(coarse), weights(fine))
    assert (coarse.status, coarse.updates, coarse.trajectory) == (fine.status, fine.updates, fine.trajectory)
    assert {n: v for n, v in coarse.measures.items() if not n.endswith("_at_loss")} == {
        n: v for n, v in found.items() if not n.endswith("_at_loss")
    }


def test_trajectory():
    trained = run(TRACKED)
    assert trained.trajectory["update"] == [0, 4, 8, 12]
    assert {len(column) for column in trained.trajectory.values()} == {4}
    data = trained.data
    start = evaluate(build(TRACKED, (1, 8, 8), 10), data.x_train, data.y_train)
    assert (trained.trajectory["train_loss"][0], trained.trajectory["train_accuracy"][0]) == start
    plain = run()
    assert torch.equal(weights(plain), weights(trained))
    assert plain.measures == trained.measures


@pytest.mark.parametrize(("rate", "time", "every"), [(0.1, 0.5, 5), (0.25, 0.5, 2), (0.5, 0.1, 1), (0.3, 1.0, 3)])
def test_track_time(rate, time, every):
    trained = run(learning_rate=rate, track=("weight_norm",), track_time=time, stop="epochs")
    assert trained.trajectory["update"] == list(range(0, 13, every))


def test_tracked_sharpness():
    tracked = {"track": ("lambda_max",), "track_every": 6, "measure_size": 150, "tolerance": 1e-5}
    trained = run(width=0.02, depth=1, train_size=150, stop="epochs", max_epochs=2, **tracked)
    dense = dense_hessian(trained.model, "cross_entropy", (trained.data.x_train, trained.data.y_train))
    top = torch.linalg.eigvalsh(dense.double())[-1].item()
    assert trained.trajectory["update"][-1] == trained.updates == 6
    assert trained.trajectory["lambda_max"][-1] == pytest.approx(top, rel=1e-3)
    assert trained.measures["lambda_max"] == pytest.approx(top, rel=1e-3)


PINNED = {"train_loss": 0.0978711, "train_accuracy": 0.99, "test_loss": 0.251873, "test_accuracy": 0.88}
PINNED |= {"lambda_max": 7.8519, "gradient_norm": 0.20633, "weight_norm": 7.41974, "updates": 190}


def test_pinned_results():
    """Where these change on purpose, raise `RunConfig.version` and pin the new ones: records must not be mixed."""
    measures = ("performance", "lambda_max", "gradient_norm", "weight_norm")
    found = run(batch_size=20, max_epochs=20, measures=measures).measures
    assert {name: found[name] for name in PINNED} == pytest.approx(PINNED, rel=1e-3)


RANDOM = {"dropout": 0.3, "augmentation": ("crop",), "mixup": 0.2}


def test_randomness_comes_from_the_seed():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = run(**RANDOM)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(first, run(**RANDOM))
    plain = run()
    for name, value in {**RANDOM, "seed": 1}.items():
        assert not torch.equal(weights(run(**{name: value})), weights(plain)), name


@pytest.mark.parametrize("optimizer", ["heavy_ball", "adam", "adagrad", "adashift"])
def test_next_iterate(optimizer):
    """Measured with the optimizer's state, and without moving the run."""
    momentum = 0.9 if optimizer == "heavy_ball" else 0.0
    trained = run(optimizer=optimizer, momentum=momentum, stop="epochs", max_epochs=4, dropout=0.2)
    before, rng = weights(trained), torch.get_rng_state()
    after = replace(trained, model=next_iterate(trained))
    assert torch.equal(weights(trained), before)
    assert torch.equal(torch.get_rng_state(), rng)
    fresh = replace(trained, optimizer=build_optimizer(trained.model.parameters(), trained.config))
    without_state = replace(trained, model=next_iterate(fresh))
    assert not torch.equal(weights(after), before)
    assert not torch.equal(weights(after), weights(without_state))


def test_averaging():
    settings = {"stop": "epochs", "model": "mlp", "learning_rate": 0.05}
    ends = [weights(run(**settings, max_epochs=epochs)) for epochs in (3, 4)]
    averaged = run(**settings, max_epochs=4, averaging_start=0.5)
    torch.testing.assert_close(weights(averaged), torch.stack(ends).mean(0), rtol=1e-5, atol=1e-7)
    assert averaged.measures["train_loss"] == evaluate(averaged.model, averaged.data.x_train, averaged.data.y_train)[0]
    slow = run(**settings, max_epochs=4, averaging_start=0.5, averaging_learning_rate=1e-9)
    torch.testing.assert_close(weights(slow), weights(run(**settings, max_epochs=2)), rtol=1e-4, atol=1e-6)


def test_threads_train_in_turn():
    """A process has one global random state, from which dropout draws."""
    configs = [replace(TINY, dropout=0.3, seed=seed) for seed in (0, 1)]
    alone = [train(config, device="cpu") for config in configs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda config: train(config, device="cpu"), configs))
    assert all(map(same, alone, together))


def test_tracking_keeps_dropout():
    """Even tracking the measure that takes a training step of its own, which is the same every time."""
    tracked = {"track": ("train_loss", "lambda_max", "between_iterates"), "track_every": 5, "measure_size": 20}
    first, second, plain = (run(dropout=0.3, **settings) for settings in (tracked, tracked, {}))
    assert torch.equal(weights(first), weights(plain))
    assert first.trajectory == second.trajectory
