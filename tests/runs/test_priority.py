"""Order of the runs of short sweeps: complete seeds first; what a time limit was too short for comes last."""

import json
import re
from dataclasses import replace

import pytest

from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.priority import complete_seeds_first, previously_failed

GRID = grid(RunConfig(), batch_size=[10, 20], learning_rate=[0.1, 0.2], seed=[5, 3, 4])
RUNS = 3
LIMITED = Execution(device="cpu", progress=False, time_limit=60)


@pytest.fixture
def sweep_shortly(tmp_path, monkeypatch, line):
    """Sweep: so many runs are done, without those that are too long, then time is up; return the message."""

    def run(configs=GRID, execution=LIMITED, runs=RUNS, too_long=()) -> str:
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


def test_short_sweeps_complete_seed_after_seed(sweep_shortly):
    ends = [sweep_shortly() for _ in range(len(GRID) // RUNS)]
    lines = records.read(sweep_shortly.record).values()
    assert [line["config"]["seed"] for line in lines] == [5] * 4 + [3] * 4 + [4] * 4
    assert ends[-1] == "complete"
    for done, end in zip((3, 6, 9), ends, strict=False):
        assert re.search(f"limit of 60 s is over: {done} of 12 runs are recorded.*; the same command", end)


def test_nearly_complete_seed_comes_first():
    missing = [config for config in GRID if config.seed != 4 or config.batch_size == 20]
    assert complete_seeds_first(missing) == [config for seed in (4, 5, 3) for config in missing if config.seed == seed]


def test_too_long_run_comes_last(sweep_shortly):
    long = GRID[0].run_id
    said = sweep_shortly(too_long={long})
    assert "1 had all of it, and come last from now on" in said
    for _ in range(4):
        said = sweep_shortly(too_long={long})
    assert set(records.read(sweep_shortly.record)) == {config.run_id for config in GRID} - {long}
    assert "11 of 12 runs are recorded" in said
    assert sweep_shortly() == "complete"


def test_more_time_restores_its_place(sweep_shortly):
    """A run that began late, because another one was before it, keeps its place all along."""
    sweep_shortly(execution=replace(LIMITED, workers=2), runs=1)
    late = complete_seeds_first(GRID)[1].run_id
    found = [previously_failed(sweep_shortly.record, limit) for limit in (60, 120, None)]
    assert found == [{late}, set(), set()]


def test_failed_run_comes_last(tmp_path):
    record = tmp_path / "r.jsonl"
    records.append_failure(record, GRID[0], "ValueError: no")
    with records.failures(record).open("a") as file:
        file.write(json.dumps(["not a run"]) + "\n{torn")
    assert previously_failed(record, None) == {GRID[0].run_id}
    assert complete_seeds_first(GRID, previously_failed(record, None))[-1] == GRID[0]
