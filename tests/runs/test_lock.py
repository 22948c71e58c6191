"""Two drivers and one record: the second is sent away in one line, and a driver that is gone keeps nobody out."""

import errno
import multiprocessing
import os
import signal
from contextlib import contextmanager

import pytest

from flatlib.cli import main
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import lock, records, sweep
from flatlib.runs.lock import locked

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, measures=("performance",))
CONFIGS = grid(BASE, seed=range(3))
QUIET = Execution(device="cpu", progress=False)
BUSY = "another process is writing to this record"

context = multiprocessing.get_context("fork")  # a driver need not import torch again
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def drive(record, answer, ready=None, pause=None):
    """A driver; it says what came of it. With `pause` it stops before its first run, for ever."""
    if ready is not None:
        ready.wait()
    if pause is not None:
        sweep.run_one = lambda *_: pause.set() or signal.pause()
    try:
        sweep.run(CONFIGS, record, QUIET)
        answer.put("done")
    except FlatlibError as error:
        answer.put(str(error))


@contextmanager
def driving(record):
    """A driver in the middle of a run, in a process of its own; killed at the end."""
    running = context.Event()
    driver = context.Process(target=drive, args=(record, context.Queue(), None, running))
    driver.start()
    try:
        assert running.wait(60)
        yield driver
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.join()


def test_the_second_driver_is_sent_away_until_the_first_is_gone(tmp_path, line):
    record = tmp_path / "r.jsonl"
    records.append(record, line(CONFIGS[0]))
    before = record.read_bytes()
    with driving(record):
        with pytest.raises(FlatlibError, match=f"^{record}: {BUSY}") as error:
            sweep.run(CONFIGS, record, QUIET)
        assert "\n" not in str(error.value)
        assert record.read_bytes() == before
        assert os.listdir(tmp_path) == ["r.jsonl"]
    assert len(sweep.run(CONFIGS, record, QUIET)) == 3


def test_reading_asks_for_no_lock(tmp_path, line, capsys):
    record = tmp_path / "r.jsonl"
    records.append(record, line(CONFIGS[0]))
    with driving(record):
        assert len(sweep.run(CONFIGS[:1], record, QUIET)) == 1
        assert len(sweep.run(CONFIGS[:1], tmp_path / "other.jsonl", QUIET, known=[record])) == 1
        assert main(["records", "check", str(record)]) == 0
        assert main(["records", "merge", str(record), "--output", str(tmp_path / "new.jsonl")]) == 0
        capsys.readouterr()
        assert main(["records", "merge", str(tmp_path / "new.jsonl"), "--output", str(record)]) == 2
        assert capsys.readouterr().err.startswith(f"flatlib: {record}: {BUSY}")


def test_of_many_drivers_at_once_one_trains(tmp_path):
    """Every run is recorded once, whoever was first; who comes after the end finds everything done."""
    record, ready, answer = tmp_path / "r.jsonl", context.Event(), context.Queue()
    drivers = [context.Process(target=drive, args=(record, answer, ready)) for _ in range(4)]
    for driver in drivers:
        driver.start()
    ready.set()
    answers = [answer.get(timeout=100) for _ in drivers]
    for driver in drivers:
        driver.join()
    assert "done" in answers
    assert {text for text in answers if BUSY not in text} == {"done"}
    assert record.read_bytes().count(b"\n") == len(CONFIGS) == len(records.read(record))


def test_what_was_added_before_the_lock_was_had_is_not_trained_again(tmp_path, line, monkeypatch):
    """Another driver ends between our look at the record and our turn."""
    record = tmp_path / "r.jsonl"
    monkeypatch.setattr(sweep, "load", lambda *_: records.write(record, [line(config) for config in CONFIGS]))
    monkeypatch.setattr(sweep, "run_one", lambda *_: pytest.fail("trained again"))
    assert len(sweep.run(CONFIGS, record, QUIET)) == 3


def test_the_lock_is_on_the_record_that_is_there(tmp_path, line, monkeypatch):
    """One that was replaced between opening and locking keeps nobody out."""
    record, flock = tmp_path / "r.jsonl", lock.fcntl.flock
    records.append(record, line(CONFIGS[0]))
    replaced = []

    def slow(file, how):
        if not replaced:
            replaced.append(records.write(record, [line(config) for config in CONFIGS]))
        flock(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", slow)
    with locked(record), pytest.raises(FlatlibError, match=BUSY), locked(record):
        pass
    with locked(record):
        assert len(records.read(record)) == 3


@pytest.mark.parametrize("without", ["flock", "a file system with locks"])
def test_where_there_are_no_locks_sweeps_go_on(tmp_path, monkeypatch, without):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if without == "flock":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with locked(tmp_path / "r.jsonl"):
        assert len(sweep.run(CONFIGS, tmp_path / "r.jsonl", QUIET)) == 3


def test_a_failed_sweep_lets_go(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_one", lambda *_: 1 / 0)
        with pytest.raises(FlatlibError, match="3 of 3 runs failed"):
            sweep.run(CONFIGS, tmp_path / "r.jsonl", QUIET)
    assert len(sweep.run(CONFIGS, tmp_path / "r.jsonl", QUIET)) == 3
