"""Sweeps: only missing runs are trained, no finished one is lost, workers change nothing but the time."""

import functools
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

import sleepers
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.executors import execute, run_one

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, track=("lambda_max",), track_every=2)
CONFIGS = grid(BASE, learning_rate=[0.1, 0.5], seed=[0, 1])
IMPOSSIBLE = RunConfig(model="vgg11", train_size=100)  # digits are too small for it
QUIET = Execution(device="cpu", progress=False)


@pytest.fixture
def seeds():
    """The seeds of the runs that are really trained."""
    return []


@pytest.fixture
def run(seeds):
    """Sweep in this process without a progress bar, and note what is trained in `seeds`."""

    def noted(config, *rest):
        seeds.append(config.seed)
        return run_one(config, *rest)

    return functools.partial(sweep.run, execution=QUIET, run_one=noted)


def results(path):
    return {run_id: line | {"provenance": None} for run_id, line in records.read(path).items()}


def test_recorded_runs_are_skipped(tmp_path, run, seeds):
    record = tmp_path / "r.jsonl"
    run(CONFIGS[:2], record)
    first = record.read_bytes()
    runs = run(CONFIGS[::-1], record)
    assert seeds == [0, 1, 1, 0]
    assert runs["run_id"].tolist() == [config.run_id for config in CONFIGS[::-1]]
    content, changed = record.read_bytes(), record.stat().st_mtime_ns
    assert content.startswith(first)
    again = run(CONFIGS, record)
    assert len(seeds) == 4
    assert (record.read_bytes(), record.stat().st_mtime_ns) == (content, changed), "a complete record is untouched"
    assert sorted(again["lambda_max"]) == sorted(runs["lambda_max"])


def test_failed_gpu_fails_no_other_run(tmp_path):
    """After an illegal access every later call of the process is an error; the runs after it are not begun."""
    record, begun = tmp_path / "r.jsonl", []

    def fail_at_the_second(config, *rest):
        begun.append(config)
        if len(begun) == 2:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
        return run_one(config, *rest)

    with pytest.raises(FlatlibError, match=r"a GPU failed \(CUDA error: .* encountered\); what has finished"):
        sweep.run(CONFIGS, record, QUIET, run_one=fail_at_the_second)
    assert (len(begun), len(records.read(record))) == (2, 1)
    assert begun[1].run_id in records.failures(record).read_text()


def test_known_records_are_only_read(tmp_path, run, seeds):
    known, record = tmp_path / "known.jsonl", tmp_path / "new" / "r.jsonl"
    run(CONFIGS[:2], known)
    before = known.read_bytes()
    run(CONFIGS[:2], record, known=[known, tmp_path / "absent.jsonl"])
    assert not record.parent.exists(), "nothing was missing"
    assert len(run(CONFIGS[1:3], record, known=[known])) == 2
    assert len(seeds) == 3
    assert known.read_bytes() == before
    assert list(records.read(record)) == [CONFIGS[2].run_id]


def test_workers_give_the_same_lines(tmp_path):
    """A failed run keeps no other from being recorded."""
    for workers in (1, 2):
        with pytest.raises(FlatlibError, match=r"1 of 3 runs failed.*vgg11: needs images"):
            sweep.run([IMPOSSIBLE, *CONFIGS[:2]], tmp_path / f"{workers}.jsonl", replace(QUIET, workers=workers))
    assert results(tmp_path / "1.jsonl") == results(tmp_path / "2.jsonl")
    assert set(results(tmp_path / "1.jsonl")) == {config.run_id for config in CONFIGS[:2]}


def test_workers_of_a_closed_sweep_end():
    """The runs would take half an hour."""
    stream = execute([0.0, 1000.0, 2000.0], Execution(workers=2), sleepers.sleep)
    assert next(stream) == (0.0, 0.0)
    stream.close()


def test_killed_worker_ends_the_sweep(tmp_path):
    record = tmp_path / "r.jsonl"
    with pytest.raises(FlatlibError, match="worker process ended before its run was done") as error:
        sweep.run(CONFIGS, record, replace(QUIET, workers=2), run_one=sleepers.end)
    assert "\n" not in str(error.value)
    assert not records.failures(record).exists(), "these runs did not fail"


def test_script_without_main_guard(tmp_path):
    (tmp_path / "script.py").write_text(
        "from flatlib.config import Execution, RunConfig\nfrom flatlib.runs import sweep\n"
        "sweep.run([RunConfig()], 'r.jsonl', Execution(device='cpu', workers=2, progress=False))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == done.stderr.count("__main__") == 1, done.stderr
    assert 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.failures.jsonl"))


@pytest.mark.parametrize(
    ("error", "shown"), [(RuntimeError("two\nlines"), "two"), (ValueError(), "ValueError"), (MemoryError("big"), "big")]
)
def test_any_failure_is_one_line(tmp_path, error, shown):
    with pytest.raises(FlatlibError, match=f"1 of 1 runs failed .*{BASE.run_id}: {shown}$"):
        sweep.run([BASE, replace(BASE)], tmp_path / "r.jsonl", QUIET, run_one=Mock(side_effect=error))


def test_interrupt_keeps_finished_runs(tmp_path):
    def interrupted(config, *rest):
        if config.seed == 1:
            raise KeyboardInterrupt
        return run_one(config, *rest)

    with pytest.raises(KeyboardInterrupt):
        sweep.run(CONFIGS[:2], tmp_path / "r.jsonl", QUIET, run_one=interrupted)
    assert list(records.read(tmp_path / "r.jsonl")) == [CONFIGS[0].run_id]


BAD = {
    "nothing to run": ([], {}, "nothing to run: the list of configurations is empty"),
    "absent data": ([replace(BASE, dataset="absent.npz")], {}, "dataset absent.npz: no file"),
    "absent device": ([BASE], {"device": "cuda:99"}, "device: 'cuda:99'"),
}


@pytest.mark.parametrize(("configs", "where", "message"), BAD.values(), ids=BAD)
def test_bad_input_stops_before_training(tmp_path, run, seeds, configs, where, message):
    with pytest.raises(FlatlibError, match=message):
        run(configs, tmp_path / "new" / "r.jsonl", execution=replace(QUIET, **where))
    assert seeds == []
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize(("place", "message"), [("file/r.jsonl", "cannot be written"), ("file", "line 1: not JSON")])
def test_bad_record_stops_before_training(tmp_path, run, seeds, place, message):
    (tmp_path / "file").write_text("garbage\n")
    with pytest.raises(FlatlibError, match=message):
        run([BASE], tmp_path / place)
    assert seeds == []
    assert (tmp_path / "file").read_text() == "garbage\n"


def test_progress_counts_runs(tmp_path, run, capsys):
    run(CONFIGS[:1], tmp_path / "r.jsonl")
    assert capsys.readouterr().err == ""
    run(CONFIGS[:3], tmp_path / "r.jsonl", execution=replace(QUIET, progress=True))
    shown = capsys.readouterr().err
    for text in ("r: 1 of 3 runs done, 2 left", "r: 3 of 3 runs done, 0 left", "elapsed", "to go"):
        assert text in shown
