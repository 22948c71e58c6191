"""Workers of a cluster that are missing, unsuitable, late or dead: every line is right, and every end is one line."""

import threading
from dataclasses import replace
from unittest.mock import Mock

import dask
import distributed
import pytest
import torch

import sleepers
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import cluster, records, sweep
from flatlib.runs.executors import execute, run_one
from processes import scheduler

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, track=("lambda_max",), track_every=2)
CONFIGS = grid(BASE, seed=range(8))
QUIET = Execution(device="cpu", progress=False)
STUB = "import sys, types; sys.modules['torch'] = types.SimpleNamespace(__version__={!r})"  # comes at no time
UNSUITABLE = {  # what a worker is started with, and what is said of it
    "has 2 threads; start it with 1": ["--nthreads", "2"],
    "has no flatlib (": ["--preload", "import sys; sys.modules['flatlib'] = None"],
    "has flatlib 0.0.9; install": ["--preload", "import flatlib; flatlib.__version__ = '0.0.9'"],
    "has torch 1.0; install": ["--preload", STUB.format("1.0")],
}
LIGHT = ["--preload", STUB.format(str(torch.__version__))]


@pytest.fixture
def hub(tmp_path):
    """A scheduler without workers."""
    with scheduler(tmp_path) as started:
        yield started


def wait_for(address: str, workers: int) -> None:
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)


def without_provenance(outcomes) -> dict:
    return {config.run_id: line | {"provenance": None} for config, line in outcomes}


def test_unsuitable_workers_that_join_late_train_nothing(hub, capsys):
    hub.start()
    wait_for(hub.address, 1)
    stream = execute(CONFIGS, replace(QUIET, scheduler=hub.address))
    outcomes = [next(stream)]
    for options in UNSUITABLE.values():
        hub.start(*options)
    wait_for(hub.address, 5)
    outcomes += stream
    assert without_provenance(outcomes) == without_provenance(execute(CONFIGS, QUIET))
    lines = capsys.readouterr().err.splitlines()
    for reason in UNSUITABLE:
        [line] = [line for line in lines if f", which {reason}" in line]
        assert line.startswith("flatlib: goes on without the worker tcp://127.0.0.1:")
        lines.remove(line)
    assert not lines


def test_unsuitable_workers_alone_are_one_line(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "SETTLE", 0.1)
    hub.start(*UNSUITABLE["has no flatlib ("])
    hub.start(*UNSUITABLE["has 2 threads; start it with 1"])
    wait_for(hub.address, 2)
    said = r"^scheduler: the worker tcp://127.0.0.1:\d+ has (no flatlib|2 threads).* \(1 more are unsuitable\)$"
    with pytest.raises(FlatlibError, match=said):
        sweep.run(CONFIGS, tmp_path / "r.jsonl", replace(QUIET, scheduler=hub.address))
    assert capsys.readouterr().err == ""
    assert not records.read(tmp_path / "r.jsonl")
    assert not records.failures(tmp_path / "r.jsonl").exists()


def test_no_worker_is_one_line(hub, tmp_path, monkeypatch, capsys):
    where = replace(QUIET, scheduler=hub.address)
    with pytest.raises(FlatlibError, match=r"^the time limit of 0\.2 s is over: 0 of 8"):
        sweep.run(CONFIGS, tmp_path / "r.jsonl", replace(where, time_limit=0.2))
    monkeypatch.setattr(cluster, "WAIT", 0.5)
    with pytest.raises(
        FlatlibError, match=rf"^scheduler: no suitable worker for 0\.5 s; .*start one \(dask worker {hub.address} "
    ):
        sweep.run(CONFIGS, tmp_path / "r.jsonl", where)
    said = f"flatlib: no suitable worker at {hub.address}; waiting up to 0.5 s for one"
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_run_that_kills_its_workers_fails(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "DEATHS", 2)
    for _ in range(2):
        hub.start(*LIGHT)
    with pytest.raises(FlatlibError, match=r"1 of 1 runs failed .*: 2 workers died in this run, the last at tcp://"):
        sweep.run([BASE], tmp_path / "r.jsonl", replace(QUIET, scheduler=hub.address), run_one=sleepers.end)


@pytest.mark.parametrize("workers", [False, True])
def test_lost_scheduler_is_one_line(hub, tmp_path, monkeypatch, workers):
    """While it waits for a worker, and while a run is in progress."""
    monkeypatch.setattr(cluster, "CONNECT", 3.0)
    if workers:
        hub.start(*LIGHT)
        wait_for(hub.address, 1)
    timer = threading.Timer(1.5, hub.process.kill)
    timer.start()
    with pytest.raises(FlatlibError, match=f"connection to {hub.address} was lost; what has finished is recorded"):
        sweep.run([BASE], tmp_path / "r.jsonl", replace(QUIET, scheduler=hub.address), run_one=sleepers.sleep_on)
    timer.join()


def test_absent_scheduler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    with pytest.raises(FlatlibError, match=r"no reply from tcp://127\.0\.0\.1:1 "):
        sweep.run([BASE], tmp_path / "r.jsonl", replace(QUIET, scheduler="tcp://127.0.0.1:1"))


def test_workers_are_those_of_the_moment(hub):
    """The client's own list of them is emptied at intervals."""
    hub.start(*LIGHT)
    wait_for(hub.address, 1)
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        distributed.Client(hub.address, set_as_default=False) as client,
    ):
        runs = cluster.Cluster(client, hub.address, [], lambda config: ())
        assert {len(runs.workers()) for _ in range(300)} == {1}


@pytest.fixture
def runs():
    """Runs on a cluster with one worker at work, and one that waits for memory."""
    client = Mock(status="running")
    client.sync.return_value = {"workers": {"paused": {"status": "paused"}, "idle": {"status": "running"}}}
    return cluster.Cluster(client, "tcp://here", CONFIGS[:2], lambda config: (run_one, config, "cpu", None))


def test_paused_worker_gets_no_run(runs):
    runs.assign(runs.workers())
    assert [call.kwargs["workers"] for call in runs.client.submit.call_args_list] == [["idle"]]


def test_line_that_is_lost_with_its_worker_is_made_again(runs):
    future = Mock(key="lost", **{"exception.return_value": None, "result.side_effect": TimeoutError})
    runs.attempts = {"lost": cluster.Attempt(BASE, "idle", future)}
    assert not list(runs.evaluate(runs.attempts["lost"]))
    assert list(runs.waiting) == [BASE, *CONFIGS[:2]]
    assert not runs.attempts


def test_last_suitable_worker_may_come_back(runs, monkeypatch, capsys):
    """With unsuitable ones still there."""
    monkeypatch.setattr(cluster, "SETTLE", 0.0)
    runs.proven, runs.unsuitable = True, {"idle": "has 2 threads"}
    runs.check_idle()
    assert "no suitable worker at tcp://here; waiting up to 30 s" in capsys.readouterr().err
    monkeypatch.setattr(cluster, "WAIT", 0.0)
    with pytest.raises(FlatlibError, match="no suitable worker for 0 s"):
        runs.check_idle()
