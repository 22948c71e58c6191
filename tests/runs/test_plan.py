"""A plan before the training: lengths known, recorded or guessed; steps timed here; memory; the table."""

import math
from dataclasses import replace

import pytest
import torch

from flatlib.book import execute, several
from flatlib.book.dry_run import Asked, Call
from flatlib.cli import main
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs.plan import steps
from flatlib.runs.plan.cost import Cost, cost
from flatlib.runs.plan.estimate import costs, plan_table
from flatlib.runs.plan.length import EXACT, GUESS, PRODUCTS, RECORDED, History, Length
from flatlib.runs.plan.memory import peak_bytes
from flatlib.runs.plan.stand_ins import KNOWN, Images, images_of, in_use
from flatlib.runs.plan.steps import Steps, calibrate, kind_of, next_batch

CPU = torch.device("cpu")
IMAGES = Images((3, 32, 32), 10, 1000, 200)
RULED = RunConfig(dataset="cifar10", train_size=1000, learning_rate=0.1, batch_size=50, max_epochs=100)


@pytest.fixture
def history(line):
    """Three seeds of one setting, and a setting at half the learning rate."""
    runs = [(replace(RULED, seed=seed), 100 * (seed + 1), 10 + seed) for seed in range(3)]
    runs += [(replace(RULED, learning_rate=0.05, batch_size=size), 500 + size, 30) for size in (50, 1000)]
    return History(line(config, updates=updates, lambda_max_products=products) for config, updates, products in runs)


LENGTHS = {
    "epochs": ({"stop": "epochs", "max_epochs": 7}, 7 * 20, EXACT),
    "updates": ({"stop": "updates", "max_updates": 33}, 33, EXACT),
    "another seed": ({"seed": 9}, 200, RECORDED),
    "another seed, capped": ({"seed": 9, "max_epochs": 5}, 100, GUESS),  # another setting: its cap is its own
    "nearest rate": ({"learning_rate": 0.04}, round(550 * 0.05 / 0.04), GUESS),
    "nearest rate and batch": ({"learning_rate": 0.04, "batch_size": 500}, 200, GUESS),  # 1875, were there no limit
    "another stop rule": ({"stop": "train_loss", "stop_value": 0.1}, 2000, GUESS),
}


@pytest.mark.parametrize(("changes", "updates", "source"), LENGTHS.values(), ids=LENGTHS)
def test_length(history, changes, updates, source):
    assert history.length(replace(RULED, **changes), IMAGES) == Length(updates, source)


def test_products(history):
    assert history.products(RULED) == 11
    assert history.products(replace(RULED, dropout=0.5)) == 12, "the median of all"
    assert History([]).products(RULED) == PRODUCTS


def test_steps_between_and_above_what_was_timed():
    found = Steps({8: 1.0, 16: 3.0})
    assert [found.of(size) for size in (4, 8, 12, 16, 32)] == [1.0, 1.0, 2.0, 3.0, 6.0]


def test_the_next_batch_is_the_wanted_one_or_a_doubled_one_or_none():
    assert next_batch(8, [100, 5000], took=0.01, left=2) == 100
    assert next_batch(8, [100, 5000], took=0.01, left=0.5) == 16
    assert next_batch(8, [100, 5000], took=0.01, left=0.1) is None
    assert next_batch(64, [100], took=0.01, left=0.9) is None
    assert next_batch(100, [100], took=0, left=9) is None


def test_kinds_are_what_changes_the_time_of_a_step():
    same = [{"seed": 3}, {"learning_rate": 3.0}, {"batch_size": 7}, {"measures": ()}, {"sam_rho": 0.1}]
    other = [{"width": 2.0}, {"dropout": 0.1}, {"batch_size": 0}, {"precision": "bfloat16"}, {"mixup": 1.0}]
    assert {kind_of(replace(RULED, **change)) for change in same} == {kind_of(RULED)}
    assert len({kind_of(replace(RULED, **change)) for change in other} - {kind_of(RULED)}) == len(other)


def test_calibration_needs_no_data_and_keeps_to_its_time(monkeypatch, tmp_path):
    monkeypatch.setenv("FLATLIB_DATA", str(tmp_path))
    narrow = kind_of(replace(RULED, width=0.1))
    wide = kind_of(replace(RULED, model="small_cnn", batch_size=0))
    found = calibrate({narrow: [20, 100], wide: [10**6]}, CPU, budget=1.0)
    assert all(second > 0 for kind in found.values() for second in kind.seconds.values())
    assert 8 in found[narrow].seconds
    assert found[wide].largest < 10**6
    assert list(tmp_path.iterdir()) == []


def test_seconds_per_update_are_those_of_a_clock(monkeypatch):
    """With runs of 2 s each and 0.1 s an update, 0.1 s are found."""
    monkeypatch.setattr(steps, "run_for", lambda config, updates, device: 2 + 0.1 * updates)
    (found,) = calibrate({kind_of(RULED): [8]}, CPU).values()
    assert found.seconds == pytest.approx({8: 0.1})


def test_the_cost_of_a_run_is_the_sum_of_its_parts(history):
    """1 ms an image, on 1000 images and 200 to test on: a look at all images is a third of a second."""
    flat = Steps({1: 1e-3})
    one = replace(RULED, stop="updates", max_updates=100, measures=(), measure_size=100)
    looks = 5 / 3  # 20 updates an epoch
    base = 100 * 0.05 + looks

    def seconds(**changes):
        return cost(replace(one, **changes), IMAGES, history, flat, CPU).seconds

    assert seconds() == pytest.approx(base)
    assert seconds(sam_rho=0.1) == pytest.approx(base + 5)
    assert seconds(measures=("performance", "gradient_norm")) == pytest.approx(base + 0.4 + 0.1)
    assert seconds(measures=("lambda_max",)) == pytest.approx(base + 12 * 2 * 0.1), "12 products, two gradients each"
    assert seconds(measures=("gradient_norm",), matched_loss=0.1) == pytest.approx(base + 2 * 0.1)
    assert seconds(track=("train_loss",), track_every=50) == pytest.approx(base + 3 / 3)


def test_memory_grows_with_what_is_held():
    one = RunConfig(dataset="cifar10", model="small_cnn", batch_size=100, measure_size=1)
    images = in_use(one, KNOWN["cifar10"])
    resident = 4 * 60_000 * 3 * 32 * 32

    def held(**changes):
        return peak_bytes(replace(one, **changes), images, CPU, Steps({8: 1.0})) - resident

    assert 0 < held() < held(batch_size=1000) < 11 * held()
    assert held(batch_size=1000, microbatch=100) == held()
    assert held(optimizer="adam") > held(optimizer="heavy_ball", momentum=0.9) > held()
    assert held(measure_size=1000) > held()


def test_on_a_gpu_the_peak_that_was_seen_is_scaled():
    one = RunConfig(dataset="cifar10", model="softmax_regression", batch_size=1000, measure_size=1)
    images = Images((3, 32, 32), 10, 1000, 0)
    seen = peak_bytes(one, images, CPU, Steps({100: 1.0}, {100: 10**8}))
    assert seen == pytest.approx(4 * 1000 * 3072 + 10 * 10**8, rel=0.01)


@pytest.fixture
def missing_one():
    """A chapter of two runs, of which one is missing."""
    configs = [RULED, replace(RULED, seed=1)]
    return Asked(None, [], [Call(configs, {RULED.run_id: {}})], 1)


def test_the_table_has_a_row_for_each_chapter_and_a_total(missing_one):
    expected = {"01": [Cost(100.0, EXACT, 2**30)], "02": [Cost(50.0, GUESS, 2**31), Cost(50.0, EXACT, 2**31)]}
    table = plan_table(dict.fromkeys(expected, missing_one), expected, at_once=2).set_index("chapter")
    assert table.loc["01"].tolist() == [2, 1, 1, "mlp", "100 s", "1.0 GiB", "0%"], "one run cannot be spread over two"
    assert table.loc["02", ["time", "memory", "guessed"]].tolist() == ["50 s", "2.0 GiB", "50%"]
    assert table.loc["total"].tolist() == [4, 2, 2, "1 in all", "100 s", "2.0 GiB", "25%"]


def test_nothing_missing_is_nothing_to_time(missing_one, monkeypatch):
    monkeypatch.setattr(steps, "run_for", lambda *arguments: math.nan)
    complete = replace(missing_one, calls=[Call([RULED], {RULED.run_id: {}})])
    expected, found = costs({"01": complete}, CPU)
    assert (expected, found) == ({"01": []}, [])
    assert plan_table({"01": complete}, expected)["time"].tolist() == ["-", "-"]


def test_a_data_set_of_the_readers_own_must_be_there(tmp_path):
    with pytest.raises(FlatlibError, match=r"dataset mine\.npz: no file"):
        images_of("mine.npz", tmp_path)


def test_the_command_prints_the_plan_and_trains_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(steps, "run_for", lambda config, updates, device: 2 + 0.1 * updates)
    monkeypatch.setattr(several, "run", None)
    monkeypatch.setattr(execute, "run", None)
    places = ["--records", str(tmp_path / "r"), "--output", str(tmp_path / "o"), "--device", "cpu"]
    assert main(["run", "all", "--preset", "paper", "--dry-run", *places]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[1:12]] == [line[0] for line in sorted(lines[1:12])]
    total = lines[12]
    assert total[0] == "total"
    assert int(total[1]) == sum(int(line[1]) for line in lines[1:12])
    assert "guessed from the chapter's nearest recorded runs" in out
    assert "timing steps on random images" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["02_nothing"], "unknown chapter"), (["all", "--preset", "huge"], "preset huge: no file")],
)
def test_a_wrong_name_is_one_line(capsys, arguments, message):
    assert main(["run", *arguments, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
