"""Sweeps that are killed: every finished run is kept, none is done twice, and the end is as if nothing had happened."""

import json
import os
import random
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

import sleepers
from flatlib.cli import main
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.executors import execute
from processes import cluster, fork, processes_with, running

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=4, track=("train_loss",), track_every=2)
CONFIGS = grid(BASE, learning_rate=[0.05, 0.1, 0.2], seed=range(12))
QUIET = Execution(device="cpu", progress=False)
LOCAL_KILLS, POOL_KILLS, CLUSTER_KILLS = 18, 2, 5
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::flatlib.runs.records.RecordWarning"),
]


def drive(record: Path, notes: Path, settings: dict, answer=None, largest: int | None = None) -> None:
    """Sweep; on a full disk (`largest` bytes a file), the error goes to `answer`."""
    os.environ["NOTES"] = str(notes)
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        sweep.run(CONFIGS, record, replace(QUIET, **settings), run_one=sleepers.logged)
    except FlatlibError as error:
        if answer is None:
            raise
        answer.send(str(error))


def finish(*arguments) -> None:
    """Sweep in a process of its own to the end."""
    with running(drive, *arguments) as driver:
        driver.join()
        assert driver.exitcode == 0


def started(notes: Path) -> list[str]:
    return notes.read_text().split() if notes.exists() else []


def results(lines) -> dict:
    return {run_id: line | {"provenance": None} for run_id, line in lines.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The lines of a sweep that nobody disturbed."""
    record = tmp_path_factory.mktemp("whole") / "r.jsonl"
    sweep.run(CONFIGS, record, QUIET)
    return results(records.read(record))


def kill_and_finish(tmp_path, settings: dict, kills: int, longest: float, uninterrupted) -> None:
    """Kill sweeps at random moments, check the record each time, then let one finish.

    A run takes at least 0.05 s (`sleepers.logged`), so `kills` x `longest` must leave some missing on any machine.
    """
    record, notes, moments = tmp_path / "r.jsonl", tmp_path / "notes", random.Random(kills)
    hits = 0
    for _ in range(10 * kills):
        before, noted = results(records.read(record)), len(started(notes))
        with running(drive, record, notes, settings) as driver:
            deadline = time.monotonic() + 60
            while len(started(notes)) == noted and time.monotonic() < deadline:
                time.sleep(0.005)  # until its first run has begun
            time.sleep(moments.uniform(0, longest))
            hits += driver.is_alive()
            driver.kill()
            driver.join()
            if "workers" in settings:
                assert not processes_with(f"NOTES={notes}", patience=60), "its workers outlived it"
        after = results(records.read(record))
        assert before.items() <= after.items()
        assert not set(before) & set(started(notes)[noted:]), "a recorded run was trained again"
        if hits == kills or len(after) == len(CONFIGS):
            break
    assert hits == kills, "too few runs for so many kills"
    noted = len(started(notes))
    finish(record, notes, settings)
    assert results(records.read(record)) == uninterrupted
    assert not set(after) & set(started(notes)[noted:])


def test_killed_sweep_in_one_process(tmp_path, uninterrupted):
    kill_and_finish(tmp_path, {}, LOCAL_KILLS, 0.15, uninterrupted)


def test_killed_sweep_leaves_no_worker(tmp_path, uninterrupted):
    kill_and_finish(tmp_path, {"workers": 2}, POOL_KILLS, 0.6, uninterrupted)


def test_killed_sweeps_of_a_cluster(tmp_path, uninterrupted):
    with cluster(tmp_path) as (address, workers):
        kill_and_finish(tmp_path, {"scheduler": address}, CLUSTER_KILLS, 0.25, uninterrupted)

        record, notes = tmp_path / "second.jsonl", tmp_path / "notes"
        noted = len(started(notes))
        with running(drive, record, notes, {"scheduler": address}) as driver:
            while len(started(notes)) < noted + 5 and driver.is_alive():
                time.sleep(0.01)
            workers[0].kill()
            driver.join()
            assert driver.exitcode == 0
        assert results(records.read(record)) == uninterrupted


def test_full_disk_is_one_line(tmp_path, uninterrupted):
    record = tmp_path / "r.jsonl"
    here, there = fork.Pipe(duplex=False)
    finish(record, tmp_path / "notes", {}, there, 5000)
    assert here.recv() == f"{record}: cannot be written (File too large)"
    with pytest.warns(records.RecordWarning, match="torn"):
        kept = results(records.read(record))
    assert 2 <= len(kept) < len(CONFIGS)
    assert kept.items() <= uninterrupted.items()
    finish(record, tmp_path / "notes", {})
    assert results(records.read(record)) == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_time_limit_cancels_runs_in_progress(workers):
    """They would take an hour. On a busy machine a worker may need longer than the first limits to start."""
    for limit in (8, 32, 128):
        found = list(execute([0.0, 1000.0, 2000.0], Execution(workers=workers, time_limit=limit), sleepers.sleep))
        if found:
            break
    assert found == [(0.0, 0.0)]


def test_failed_run_is_tried_again(tmp_path):
    record = tmp_path / "r.jsonl"
    with pytest.raises(FlatlibError, match="1 of 1 runs failed"):
        sweep.run([BASE], record, QUIET, run_one=lambda *_: 1 / 0)
    (failure,) = [json.loads(line) for line in records.failures(record).read_text().splitlines()]
    error = "ZeroDivisionError: division by zero"
    assert failure == {"run_id": BASE.run_id, "config": BASE.to_json(), "error": error}
    assert len(sweep.run([BASE], record, QUIET)) == 1


def test_chapter_on_a_cluster(tmp_path):
    """The command line, with a scheduler and two workers started as real processes."""
    places = ["--device", "cpu", "--records", str(tmp_path), "--output", str(tmp_path / "pages")]
    with cluster(tmp_path) as (address, _):
        options = ["-p", "seeds", "[0]", "--scheduler", address, "--time-limit", "10m"]
        assert main(["run", "01_lr_batch", *places, *options]) == 0
    lines = records.read(tmp_path / "01_lr_batch" / "smoke.jsonl")
    assert {line["config"]["seed"] for line in lines.values()} == {0}
