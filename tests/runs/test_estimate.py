"""The time of missing runs, from recorded ones."""

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from flatlib.config import RunConfig
from flatlib.runs import estimate, records
from flatlib.runs.estimate import SPREAD, expected_epochs, plan_table, recorded_runs, updates_per_epoch, work
from flatlib.training.data import raw

RECORDS = Path(__file__).parents[2] / "book" / "records"
ONE = RunConfig(dataset="cifar10", train_size=1000, batch_size=50, max_epochs=100, measures=())


@pytest.fixture
def history(line):
    """Three seeds of a setting, of 10 epochs and about 20 s."""
    lines = [line(replace(ONE, seed=seed), updates=200) for seed in range(3)]
    return [found | {"provenance": {"seconds": s}} for found, s in zip(lines, (20.0, 15.0, 40.0), strict=True)]


def of(config, lines):
    return estimate.estimate(replace(config, seed=0), recorded_runs(lines))


def test_basis_is_the_nearest_recorded(history):
    assert of(replace(ONE, seed=9), history) == (estimate.SEEDS, [20.0, 15.0, 40.0])
    assert of(replace(ONE, model="vgg11"), history)[0] == estimate.GUESS
    assert of(ONE, []) == (estimate.UNKNOWN, [])
    table = plan_table({"01_a": ([ONE], {})}, [], workers=2)
    assert table.loc[0, ["time", "basis"]].tolist() == ["unknown", "1 unknown"]


@pytest.mark.parametrize(("size", "factor"), [(2000, 2), (None, 50)])
def test_time_grows_with_images(history, size, factor):
    """Fifty times the images take fifty times the updates, not the same number of them."""
    basis, (low, middle, high) = of(replace(ONE, train_size=size), history)
    assert basis == estimate.SETTINGS
    assert middle == pytest.approx(20 * factor, rel=0.01)
    assert (low, high) == (middle / SPREAD, middle * SPREAD)


@pytest.mark.parametrize(
    ("changes", "capped", "epochs"),
    [
        ({}, False, 10),
        ({"max_epochs": 4}, False, 4),
        ({"max_updates": 60}, False, 3),
        ({"stop": "epochs", "max_epochs": 7}, False, 7),
        ({"stop": "updates", "max_updates": 30}, False, 1.5),
        ({"max_epochs": 300}, True, 300),
    ],
    ids=str,
)
def test_epochs_are_the_recorded_ones(history, changes, capped, epochs):
    """At most those of the run's own limits, and all of these if the recorded run was capped."""
    ((run, *_),) = recorded_runs(history).values()
    assert expected_epochs(replace(ONE, **changes), replace(run, capped=capped)) == epochs


@pytest.mark.parametrize("more", [{"sam_rho": 0.1}, {"width": 2.0}, {"batch_size": 10}, {"model": "vgg11"}], ids=str)
def test_work_grows(more):
    assert work(replace(ONE, **more), epochs=10) > work(ONE, epochs=10)


def test_table_has_chapters_and_total(history):
    recorded = {history[0]["run_id"]: history[0]}
    missing = [replace(ONE, seed=seed) for seed in (7, 8)]
    requests = {"01_a": ([ONE, ONE, *missing], recorded), "02_b": ([ONE], recorded)}
    table = plan_table(requests, history, workers=2).set_index("chapter")
    assert table.loc["01_a"].tolist() == [3, 1, 2, "mlp", "20 s (15 s to 40 s)", "2 other seeds"]
    assert table.loc["02_b", ["missing", "time", "basis"]].tolist() == [0, "-", "-"]
    assert table.loc["total"].tolist()[:3] == [4, 2, 2]


def test_images_are_those_there_are():
    assert updates_per_epoch(replace(ONE, train_size=None)) == 1000
    assert estimate.IMAGES["digits"][0] == len(raw("digits", Path())["x_train"])


@pytest.mark.parametrize("chapter", sorted(path.parent.name for path in RECORDS.glob("[0-9]*/small.jsonl")))
def test_excluded_runs_are_predicted(chapter):
    """Each run of a published record by the others: the sum of a chapter is within a factor of 3."""
    history = recorded_runs(records.read(RECORDS / chapter / "small.jsonl").values())
    predicted = actual = 0.0
    for setting, runs in history.items():
        for run in runs:
            others = {setting: [other for other in runs if other is not run]} if len(runs) > 1 else {}
            rest = {name: found for name, found in history.items() if name != setting}
            predicted += median(estimate.estimate(setting, rest | others)[1])
            actual += run.seconds
    assert 1 / SPREAD < predicted / actual < SPREAD
