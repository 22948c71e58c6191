"""Sweeps that are killed: every finished run is kept, none is done twice, and the end is as if nothing had happened."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import distributed
import pytest
import sleepers
from processes import processes_with

from flatlib.cli import main
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.executors import outcomes

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=4, track=("train_loss",), track_every=2)
CONFIGS = grid(BASE, learning_rate=[0.05, 0.1, 0.2], seed=range(12))
LOCAL_KILLS, POOL_KILLS, CLUSTER_KILLS = 18, 2, 5

context = multiprocessing.get_context("fork")  # a driver need not import torch again
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def logged(config: RunConfig, device: str, data: Path | None):
    """A run that leaves a note before it starts, and takes a tenth of a second."""
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{config.run_id}\n")
    time.sleep(0.05)
    return sweep_run_one(config, device, data)


sweep_run_one = sweep.run_one


def drive(record: Path, notes: Path, settings: dict, answer=None, largest: int | None = None) -> None:
    """The driver of a sweep; on a full disk (`largest` bytes a file), what it says goes to `answer`."""
    os.environ["NOTES"] = str(notes)
    sweep.run_one = logged
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        sweep.run(CONFIGS, record, Execution(device="cpu", progress=False, **settings))
    except FlatlibError as error:
        if answer is None:
            raise
        answer.send(str(error))


def started(notes: Path) -> list[str]:
    return notes.read_text().split() if notes.exists() else []


def results(lines) -> dict:
    return {run_id: line | {"provenance": None} for run_id, line in lines.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The lines of a sweep that nobody disturbed."""
    record = tmp_path_factory.mktemp("whole") / "r.jsonl"
    sweep.run(CONFIGS, record, Execution(device="cpu", progress=False))
    return results(records.read(record))


@pytest.mark.filterwarnings("ignore::flatlib.runs.records.RecordWarning")
def killed_and_finished(tmp_path, settings: dict, kills: int, longest: float, uninterrupted) -> None:
    """Kill drivers at random moments, look at the record each time, then let one finish.

    A run takes at least 0.05 s (`logged`), so `kills` x `longest` must leave some of the runs undone on any machine.
    """
    record, notes, moments = tmp_path / "r.jsonl", tmp_path / "notes", random.Random(kills)
    hits = 0
    for _ in range(10 * kills):
        before, noted = results(records.read(record)), len(started(notes))
        driver = context.Process(target=drive, args=(record, notes, settings))
        driver.start()
        deadline = time.monotonic() + 60
        while len(started(notes)) == noted and time.monotonic() < deadline:
            time.sleep(0.005)  # until its first run has begun
        time.sleep(moments.uniform(0, longest))
        alive = driver.is_alive()
        driver.kill()
        driver.join()
        hits += alive
        after = results(records.read(record))
        assert before.items() <= after.items()
        assert not set(before) & set(started(notes)[noted:]), "a recorded run was trained again"
        if hits == kills or len(after) == len(CONFIGS):
            break
    assert hits == kills, "too few runs for so many kills"
    noted = len(started(notes))
    driver = context.Process(target=drive, args=(record, notes, settings))
    driver.start()
    driver.join()
    assert driver.exitcode == 0
    assert results(records.read(record)) == uninterrupted
    assert not set(after) & set(started(notes)[noted:])


def test_a_driver_that_trains_itself(tmp_path, uninterrupted):
    killed_and_finished(tmp_path, {}, LOCAL_KILLS, 0.15, uninterrupted)


def test_a_driver_with_workers_and_none_is_left_behind(tmp_path, uninterrupted):
    killed_and_finished(tmp_path, {"workers": 2}, POOL_KILLS, 0.6, uninterrupted)
    assert not processes_with(f"NOTES={tmp_path / 'notes'}", patience=10)


@contextmanager
def cluster(folder: Path):
    """A scheduler and two workers as processes of their own: the scheduler's address and the workers."""
    file = folder / "scheduler.json"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"NOTES": str(folder / "notes"), "PYTHONPATH": paths}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--host",
        "127.0.0.1",
    ]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    scheduler = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(file)], **quiet)
    workers = []
    try:
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        worker = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        workers = [subprocess.Popen([*worker, "--no-nanny", "--no-dashboard"], **quiet) for _ in range(2)]
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_drivers_and_a_worker_of_a_cluster(tmp_path, uninterrupted):
    with cluster(tmp_path) as (address, workers):
        killed_and_finished(tmp_path, {"scheduler": address}, CLUSTER_KILLS, 0.25, uninterrupted)

        record, notes = tmp_path / "second.jsonl", tmp_path / "notes"
        noted = len(started(notes))
        driver = context.Process(target=drive, args=(record, notes, {"scheduler": address}))
        driver.start()
        while len(started(notes)) < noted + 5:
            time.sleep(0.01)
        workers[0].kill()
        driver.join()
        assert driver.exitcode == 0
        assert results(records.read(record)) == uninterrupted


@pytest.mark.parametrize("lost", [CancelledError, OSError, TimeoutError])
def test_a_lost_scheduler_is_one_line(lost, tmp_path, monkeypatch):
    """As `distributed` tells it, in whichever call it notices."""
    client = mock.Mock(**{"scheduler_info.return_value": {"workers": {}}})
    client.map.side_effect = lambda run_one, missing, *rest, key, pure: [mock.Mock(key=one) for one in key]
    monkeypatch.setattr(distributed, "Client", lambda *address, **options: client)
    monkeypatch.setattr(distributed, "as_completed", mock.Mock(side_effect=lost))
    with pytest.raises(FlatlibError, match="connection to tcp://here was lost; what has finished is recorded"):
        sweep.run([BASE], tmp_path / "r.jsonl", Execution(scheduler="tcp://here", progress=False))
    client.close.assert_called_once()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("flatlib.runs.executors.CONNECT", 0.5)
    with pytest.raises(FlatlibError, match=r"nothing answers at tcp://127\.0\.0\.1:1 "):
        sweep.run([BASE], tmp_path / "r.jsonl", Execution(scheduler="tcp://127.0.0.1:1", progress=False))


def test_a_full_disk_is_one_line_and_the_record_stays_readable(tmp_path, uninterrupted):
    record = tmp_path / "r.jsonl"
    here, there = context.Pipe(duplex=False)
    driver = context.Process(target=drive, args=(record, tmp_path / "notes", {}, there, 5000))
    driver.start()
    driver.join()
    assert here.recv() == f"{record}: cannot be written (File too large)"
    with pytest.warns(records.RecordWarning, match="torn"):
        kept = results(records.read(record))
    assert 2 <= len(kept) < len(CONFIGS)
    assert kept.items() <= uninterrupted.items()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_time_limit_gives_up_what_is_under_way(workers):
    begin = time.monotonic()
    found = list(outcomes([0.0, 1000.0, 2000.0], Execution(workers=workers, time_limit=8), sleepers.sleep))
    assert found == [(0.0, 0.0)]
    assert time.monotonic() - begin < 60


def test_a_time_limit_keeps_what_has_finished_and_says_how_to_go_on(tmp_path, monkeypatch):
    record, other = tmp_path / "r.jsonl", replace(BASE, seed=99)
    limited = Execution(device="cpu", progress=False, time_limit=12)
    with monkeypatch.context() as patch:
        first = ((config, sweep_run_one(config, "cpu", None)) for config in [BASE])
        patch.setattr(sweep, "outcomes", lambda *_: first)
        with pytest.raises(
            FlatlibError, match="time limit of 12 s is over: 1 of 2 runs are recorded; the same command"
        ):
            sweep.run([BASE, other], record, limited)
    assert list(records.read(record)) == [BASE.run_id]
    assert len(sweep.run([BASE, other], record, replace(limited, time_limit=None))) == 2


def test_a_run_that_fails_is_written_down_and_tried_again(tmp_path, monkeypatch):
    record = tmp_path / "r.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_one", lambda *_: 1 / 0)
        with pytest.raises(FlatlibError, match="1 of 1 runs failed"):
            sweep.run([BASE], record, Execution(device="cpu", progress=False))
    (failure,) = [json.loads(line) for line in records.failures(record).read_text().splitlines()]
    assert failure == {
        "run_id": BASE.run_id,
        "config": BASE.to_json(),
        "error": "ZeroDivisionError: division by zero",
    }
    assert len(sweep.run([BASE], record, Execution(device="cpu", progress=False))) == 1


def test_a_chapter_on_a_cluster_and_under_a_time_limit(tmp_path, capsys):
    """The command line, with a scheduler and two workers started as real processes."""
    common = ["run", "01_lr_batch", "--device", "cpu", "--records", str(tmp_path), "--output", str(tmp_path / "pages")]
    seeds = ["-p", "seeds", "[0]"]
    with cluster(tmp_path) as (address, _):
        assert main([*common, *seeds, "--scheduler", address, "--time-limit", "10m"]) == 0
    lines = records.read(tmp_path / "01_lr_batch" / "smoke.jsonl")
    assert {line["config"]["seed"] for line in lines.values()} == {0}
    capsys.readouterr()
    assert main([*common, "--time-limit", "soon"]) == 2
    assert "expected a time such as 90, 8m or 2h" in capsys.readouterr().err
