"""Two writers of one record: the second is refused in one line, and a writer that is gone keeps nobody out."""

import functools
import os
import signal
from contextlib import contextmanager
from unittest.mock import Mock

import pytest

from flatlib.cli import main
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.lock import locked
from processes import fork, running

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, measures=("performance",))
CONFIGS = grid(BASE, seed=range(3))
QUIET = Execution(device="cpu", progress=False)
BUSY = "another process is writing to this record"
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def drive(record, answer, ready):
    """Sweep once `ready`, and put the outcome into a queue."""
    ready.wait()
    try:
        sweep.run(CONFIGS, record, QUIET)
        answer.put("done")
    except FlatlibError as error:
        answer.put(str(error))


@contextmanager
def sweeping(record):
    """Keep a process in its first run for ever; it is killed at the end."""
    begun = fork.Event()
    forever = functools.partial(sweep.run, run_one=lambda *_: begun.set() or signal.pause())
    with running(forever, CONFIGS, record, QUIET):
        assert begun.wait(60)
        yield


@pytest.fixture
def record(tmp_path, line):
    """A record of the first run."""
    records.append(tmp_path / "r.jsonl", line(CONFIGS[0]))
    return tmp_path / "r.jsonl"


def test_second_sweep_is_refused(record):
    before = record.read_bytes()
    with sweeping(record):
        with pytest.raises(FlatlibError, match=f"^{record}: {BUSY}") as error:
            sweep.run(CONFIGS, record, QUIET)
        assert "\n" not in str(error.value)
        assert record.read_bytes() == before
    assert len(sweep.run(CONFIGS, record, QUIET)) == 3, "a killed process keeps nobody out"
    assert os.listdir(record.parent) == [record.name], "nothing is left beside the record"


def test_reading_needs_no_lock(record, tmp_path, capsys):
    with sweeping(record):
        assert len(sweep.run(CONFIGS[:1], record, QUIET)) == 1
        assert len(sweep.run(CONFIGS[:1], tmp_path / "other.jsonl", QUIET, known=[record])) == 1
        assert main(["records", "check", str(record)]) == 0
        assert main(["records", "merge", str(record), "--output", str(tmp_path / "new.jsonl")]) == 0
        capsys.readouterr()
        assert main(["records", "merge", str(tmp_path / "new.jsonl"), "--output", str(record)]) == 2
        assert capsys.readouterr().err.startswith(f"flatlib: {record}: {BUSY}")


def test_one_of_many_sweeps_trains(tmp_path):
    record, ready, answer = tmp_path / "r.jsonl", fork.Event(), fork.Queue()
    drivers = [fork.Process(target=drive, args=(record, answer, ready)) for _ in range(4)]
    for driver in drivers:
        driver.start()
    try:
        ready.set()
        answers = [answer.get(timeout=100) for _ in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.join()
    assert "done" in answers
    assert {text for text in answers if BUSY not in text} == {"done"}
    assert record.read_bytes().count(b"\n") == len(CONFIGS) == len(records.read(record))


def test_runs_added_meanwhile_are_skipped(tmp_path, line, monkeypatch):
    """Another process finishes between the first look at the record and the lock."""
    record = tmp_path / "r.jsonl"
    monkeypatch.setattr(sweep, "load", lambda *_: records.write(record, [line(config) for config in CONFIGS]))
    assert len(sweep.run(CONFIGS, record, QUIET, run_one=lambda *_: pytest.fail("trained again"))) == 3


def test_lock_outlasts_a_replaced_record(record, line):
    with locked(record):
        records.write(record, [line(config) for config in CONFIGS])
        with pytest.raises(FlatlibError, match=BUSY), locked(record):
            pass


def test_no_locks_on_the_file_system(tmp_path, monkeypatch):
    monkeypatch.setattr("flatlib.runs.lock.FileLock.acquire", Mock(side_effect=NotImplementedError))
    assert len(sweep.run(CONFIGS, tmp_path / "r.jsonl", QUIET)) == 3
