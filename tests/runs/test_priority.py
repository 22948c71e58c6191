"""Short slots that add up: whole seeds first, and what cannot be done in a slot does not take the next one too."""

import json
from dataclasses import replace

import pytest

from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.priority import complete_seeds_first, previously_failed

GRID = grid(RunConfig(), batch_size=[10, 20], learning_rate=[0.1, 0.2], seed=[5, 3, 4])
RUNS_A_SLOT = 3
SLOT = Execution(device="cpu", progress=False, time_limit=60)


@pytest.fixture
def slot(tmp_path, monkeypatch, line):
    """One slot: so many runs are done of those that are not too long, then time is up; what it said at the end."""

    def run(configs=GRID, execution=SLOT, runs=RUNS_A_SLOT, too_long=()) -> str:
        def some(missing, execution, run_one):
            done = [config for config in missing[:runs] if config.run_id not in too_long]
            return ((config, line(config)) for config in done)

        monkeypatch.setattr(sweep, "execute", some)
        try:
            sweep.run(configs, tmp_path / "r.jsonl", execution)
        except FlatlibError as error:
            return str(error)
        return "complete"

    run.record = tmp_path / "r.jsonl"
    return run


def trained(record) -> list[int]:
    """The seeds of the recorded runs, in the order they were trained in."""
    return [line["config"]["seed"] for line in records.read(record).values()]


def test_slots_complete_seed_after_seed(slot):
    ends = [slot() for _ in range(len(GRID) // RUNS_A_SLOT)]
    assert trained(slot.record) == [5] * 4 + [3] * 4 + [4] * 4
    assert ends[-1] == "complete"
    assert [end.split(": ")[1].split(" of ")[0] for end in ends[:-1]] == ["3", "6", "9"]


def test_the_seed_nearest_to_complete_is_completed_first():
    missing = [config for config in GRID if config.seed != 4 or config.batch_size == 20]
    assert [config.seed for config in complete_seeds_first(missing)] == [4] * 2 + [5] * 4 + [3] * 4


def test_within_a_seed_the_order_stays_and_nothing_is_lost():
    first = [config for config in GRID if config.seed == 5]
    ordered = complete_seeds_first(GRID)
    assert ordered[:4] == first
    assert set(ordered) == set(GRID)


def test_the_table_keeps_the_order_given(slot, tmp_path, line):
    slot(runs=len(GRID))
    table = sweep.run(GRID, slot.record, SLOT)
    assert table["run_id"].tolist() == [config.run_id for config in GRID]


def test_a_run_that_had_the_whole_slot_lets_the_others_go_first(slot):
    long = GRID[0].run_id
    said = slot(too_long={long})
    assert "1 had all of it, and come last from now on" in said
    for _ in range(4):
        said = slot(too_long={long})
    assert set(records.read(slot.record)) == {config.run_id for config in GRID} - {long}
    assert "11 of 12 runs are recorded" in said
    assert slot() == "complete"


def test_a_longer_slot_tries_it_in_its_place_again(slot):
    slot(too_long={GRID[0].run_id})
    assert previously_failed(slot.record, SLOT.time_limit) == {GRID[0].run_id}
    assert previously_failed(slot.record, 2 * SLOT.time_limit) == set()
    assert previously_failed(slot.record, None) == set()


def test_runs_that_were_only_begun_late_are_not_put_off(slot):
    slot(execution=replace(SLOT, workers=2), runs=1)
    assert previously_failed(slot.record, SLOT.time_limit) == {complete_seeds_first(GRID)[1].run_id}


def test_a_run_that_failed_comes_last_whatever_time_there_is(tmp_path):
    record = tmp_path / "r.jsonl"
    records.append_failure(record, GRID[0], "ValueError: no")
    with records.failures(record).open("a") as file:
        file.write(json.dumps(["not a run"]) + "\n{torn")
    assert previously_failed(record, None) == {GRID[0].run_id}
    assert complete_seeds_first(GRID, previously_failed(record, None))[-1] == GRID[0]
