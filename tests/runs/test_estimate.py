"""The time of missing runs, from recorded ones."""

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from flatlib.config import RunConfig
from flatlib.runs import records
from flatlib.runs.estimate import (
    GUESS,
    IMAGES,
    SEEDS,
    SETTINGS,
    SPREAD,
    UNKNOWN,
    duration,
    estimate,
    expected_epochs,
    plan_table,
    recorded_runs,
    updates_per_epoch,
    work,
)
from flatlib.training.data import raw

ROOT = Path(__file__).parents[2]
ONE = RunConfig(dataset="cifar10", train_size=1000, batch_size=50, max_epochs=100, measures=())


@pytest.fixture
def history(line):
    """Three seeds of a setting, of 10 epochs and about 20 s."""
    lines = []
    for seed, seconds in enumerate((20.0, 15.0, 40.0)):
        found = line(replace(ONE, seed=seed), updates=200)
        lines.append(found | {"provenance": {"seconds": seconds}})
    return lines


def of(config, lines):
    return estimate(replace(config, seed=0), recorded_runs(lines))


def test_other_seeds_give_their_seconds(history):
    assert of(replace(ONE, seed=9), history) == (SEEDS, [20.0, 15.0, 40.0])


@pytest.mark.parametrize(("size", "factor"), [(2000, 2), (None, 50)])
def test_time_grows_with_images_at_the_same_epochs(history, size, factor):
    """Fifty times the images take fifty times the updates, not the same number of them."""
    basis, (low, middle, high) = of(replace(ONE, train_size=size), history)
    assert basis == SETTINGS
    assert middle == pytest.approx(20 * factor, rel=0.01)
    assert (low, high) == (middle / SPREAD, middle * SPREAD)


EPOCHS = {
    "as recorded": ({}, 10),
    "limited": ({"max_epochs": 4}, 4),
    "limited by updates": ({"max_updates": 60}, 3),
    "epochs": ({"stop": "epochs", "max_epochs": 7}, 7),
    "updates": ({"stop": "updates", "max_updates": 30}, 1.5),
}


@pytest.mark.parametrize(("changes", "epochs"), EPOCHS.values(), ids=EPOCHS)
def test_epochs(history, changes, epochs):
    ((run, *_),) = recorded_runs(history).values()
    assert expected_epochs(replace(ONE, **changes), run) == epochs


def test_capped_run_takes_all_epochs(history):
    ((run, *_),) = recorded_runs(history).values()
    assert expected_epochs(replace(ONE, max_epochs=300), replace(run, capped=True)) == 300


@pytest.mark.parametrize(
    "more",
    [
        *({"sam_rho": 0.1}, {"width": 2.0}, {"measures": ("lambda_max",)}, {"track": ("trace",), "track_every": 5}),
        *({"batch_size": 10}, {"check_every": 1}, {"model": "vgg11"}, {"train_size": 2000}),
    ],
)
def test_work_grows(more):
    assert work(replace(ONE, **more), epochs=10) > work(ONE, epochs=10)


def test_another_network_is_a_guess(history):
    assert of(replace(ONE, model="vgg11"), history)[0] == GUESS


def test_nothing_recorded_is_unknown():
    assert of(ONE, []) == (UNKNOWN, [])
    table = plan_table({"01_a": ([ONE], {})}, [], workers=2)
    assert table.loc[0, ["time", "basis"]].tolist() == ["unknown", "1 unknown"]


def test_table_has_chapters_and_a_total(history):
    recorded = {history[0]["run_id"]: history[0]}
    missing = [replace(ONE, seed=seed) for seed in (7, 8)]
    requests = {"01_a": ([ONE, ONE, *missing], recorded), "02_b": ([ONE], recorded)}
    table = plan_table(requests, history, workers=2).set_index("chapter")
    assert table.loc["01_a"].tolist() == [3, 1, 2, "mlp", "20 s (15 s to 40 s)", "2 other seeds"]
    assert table.loc["02_b", ["missing", "time", "basis"]].tolist() == [0, "-", "-"]
    assert table.loc["total"].tolist()[:3] == [4, 2, 2]


def test_epochs_are_of_the_images_there_are():
    assert updates_per_epoch(replace(ONE, train_size=None)) == 1000
    arrays = raw("digits", Path())
    assert IMAGES["digits"][0] == len(arrays["x_train"])


CHAPTERS = sorted(path.parent.name for path in (ROOT / "book" / "records").glob("[0-9]*/small.jsonl"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_left_out_runs_are_predicted(chapter):
    """Each run of a published record by the others: the sum of a chapter is within a factor of 3."""
    lines = records.read(ROOT / "book" / "records" / chapter / "small.jsonl")
    history = recorded_runs(lines.values())
    predicted = actual = 0.0
    for setting, runs in history.items():
        for run in runs:
            others = {setting: [other for other in runs if other is not run]} if len(runs) > 1 else {}
            rest = {name: found for name, found in history.items() if name != setting}
            predicted += median(estimate(setting, rest | others)[1])
            actual += run.seconds
    assert 1 / 3 < predicted / actual < 3


def test_duration():
    assert [duration(seconds) for seconds in (0.2, 100, 7300, 200_000)] == ["0.2 s", "100 s", "2.0 h", "2.3 d"]
