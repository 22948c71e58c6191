"""Sweeps: only what is missing is trained, nothing finished is lost, workers change nothing but the time."""

import time
from dataclasses import replace

import pytest
import sleepers
import torch

from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.runs.executors import outcomes

BASE = RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, track=("lambda_max",), track_every=2)
CONFIGS = grid(BASE, learning_rate=[0.1, 0.5], seed=[0, 1])
IMPOSSIBLE = RunConfig(model="vgg11", train_size=100)  # digits are too small for it
QUIET = Execution(device="cpu", progress=False)


@pytest.fixture
def trained(monkeypatch):
    """The seeds of the runs that are really trained."""
    seeds = []
    run_one = sweep.run_one
    monkeypatch.setattr(sweep, "run_one", lambda config, *rest: seeds.append(config.seed) or run_one(config, *rest))
    return seeds


def results(path):
    return {run_id: line | {"provenance": None} for run_id, line in records.read(path).items()}


def test_recorded_runs_are_skipped_and_a_complete_record_is_untouched(tmp_path, trained):
    record = tmp_path / "r.jsonl"
    sweep.run(CONFIGS[:2], record, QUIET)
    first = record.read_bytes()
    runs = sweep.run(CONFIGS[::-1], record, QUIET)
    assert trained == [0, 1, 1, 0]
    assert runs["run_id"].tolist() == [config.run_id for config in CONFIGS[::-1]]
    content, changed = record.read_bytes(), record.stat().st_mtime_ns
    assert content.startswith(first)
    again = sweep.run(CONFIGS, record, QUIET)
    assert len(trained) == 4
    assert (record.read_bytes(), record.stat().st_mtime_ns) == (content, changed)
    assert sorted(again["lambda_max"]) == sorted(runs["lambda_max"])


def test_a_torn_record_goes_on_where_it_stopped(tmp_path, trained):
    record = tmp_path / "r.jsonl"
    sweep.run(CONFIGS[:2], record, QUIET)
    whole = results(record)
    record.write_bytes(record.read_bytes()[:-40])
    with pytest.warns(records.RecordWarning, match="torn"):
        sweep.run(CONFIGS[:2], record, QUIET)
    assert trained == [0, 1, 1]
    assert results(record) == whole


def test_a_gpu_that_fails_fails_no_other_run(tmp_path, monkeypatch):
    """After an illegal access every later call of the process is an error; the runs after it are not begun."""
    record, begun, run_one = tmp_path / "r.jsonl", [], sweep.run_one

    def fail_at_the_second(config, *rest):
        begun.append(config)
        if len(begun) == 2:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
        return run_one(config, *rest)

    monkeypatch.setattr(sweep, "run_one", fail_at_the_second)
    with pytest.raises(FlatlibError, match=r"a GPU failed \(CUDA error: .* encountered\); what has finished"):
        sweep.run(CONFIGS, record, QUIET)
    assert (len(begun), len(records.read(record))) == (2, 1)
    assert begun[1].run_id in records.failures(record).read_text()


def test_workers_of_a_sweep_that_breaks_off_are_ended():
    stream = outcomes([0.0, 1000.0, 2000.0], Execution(workers=2), sleepers.sleep)
    assert next(stream) == (0.0, 0.0)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 20


def test_known_records_are_only_read(tmp_path, trained):
    known, record = tmp_path / "known.jsonl", tmp_path / "new" / "r.jsonl"
    sweep.run(CONFIGS[:2], known, QUIET)
    before = known.read_bytes()
    sweep.run(CONFIGS[:2], record, QUIET, known=[known, tmp_path / "absent.jsonl"])
    assert not record.parent.exists(), "nothing was missing"
    assert len(sweep.run(CONFIGS[1:3], record, QUIET, known=[known])) == 2
    assert len(trained) == 3
    assert known.read_bytes() == before
    assert list(records.read(record)) == [CONFIGS[2].run_id]


def test_two_workers_give_the_lines_of_one_and_report_what_failed(tmp_path):
    with pytest.raises(FlatlibError, match=r"1 of 3 runs failed.*vgg11: needs images"):
        sweep.run([IMPOSSIBLE, *CONFIGS[:2]], tmp_path / "two.jsonl", replace(QUIET, workers=2))
    sweep.run(CONFIGS[:2], tmp_path / "one.jsonl", QUIET)
    assert results(tmp_path / "one.jsonl") == results(tmp_path / "two.jsonl")


def test_the_same_settings_twice_are_one_run(tmp_path, trained):
    assert len(sweep.run([BASE, replace(BASE)], tmp_path / "r.jsonl", QUIET)) == 1
    assert trained == [0]


def test_a_run_that_fails_is_reported_and_the_others_are_recorded(tmp_path):
    with pytest.raises(FlatlibError, match=r"1 of 3 runs failed.*vgg11: needs images of at least 32 x 32") as error:
        sweep.run([IMPOSSIBLE, *CONFIGS[:2]], tmp_path / "r.jsonl", QUIET)
    assert "\n" not in str(error.value)
    assert set(records.read(tmp_path / "r.jsonl")) == {config.run_id for config in CONFIGS[:2]}


@pytest.mark.parametrize(
    ("error", "shown"), [(RuntimeError("two\nlines"), "two"), (ValueError(), "ValueError"), (MemoryError("big"), "big")]
)
def test_any_failure_is_one_line(tmp_path, monkeypatch, error, shown):
    def fail(*_):
        raise error

    monkeypatch.setattr(sweep, "run_one", fail)
    with pytest.raises(FlatlibError, match=f"1 of 1 runs failed .*{BASE.run_id}: {shown}$"):
        sweep.run([BASE], tmp_path / "r.jsonl", QUIET)


def test_an_interrupt_keeps_what_had_finished(tmp_path, monkeypatch):
    run_one = sweep.run_one

    def interrupted(config, *rest):
        if config.seed == 1:
            raise KeyboardInterrupt
        return run_one(config, *rest)

    monkeypatch.setattr(sweep, "run_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(CONFIGS[:2], tmp_path / "r.jsonl", QUIET)
    assert list(records.read(tmp_path / "r.jsonl")) == [CONFIGS[0].run_id]


def test_the_sweep_costs_less_than_a_fiftieth_of_runs_of_ten_seconds(tmp_path, monkeypatch):
    """Everything that is not a run: skipping, ordering, locking, writing, syncing, the bar and the table."""
    line = sweep.run_one(CONFIGS[0], "cpu", None)
    monkeypatch.setattr(
        sweep, "run_one", lambda config, *rest: line | {"run_id": config.run_id, "config": config.to_json()}
    )
    configs = grid(BASE, seed=range(200))
    began = time.perf_counter()
    sweep.run(configs, tmp_path / "r.jsonl", QUIET)
    assert (time.perf_counter() - began) / len(configs) < 0.02 * 10


def test_divergence_is_recorded(tmp_path):
    runs = sweep.run(grid(BASE, learning_rate=[0.1, 1e20]), tmp_path / "r.jsonl", QUIET)
    assert runs["status"].tolist() == ["capped", "diverged"]
    assert runs["lambda_max"].isna().tolist() == [False, True]


BAD = {
    "nothing to run": ([], {}, "nothing to run: the list of configurations is empty"),
    "absent data": ([replace(BASE, dataset="absent.npz")], {}, "dataset absent.npz: no file"),
    "absent device": ([BASE], {"device": "cuda:99"}, "device: 'cuda:99' was requested"),
}


@pytest.mark.parametrize(("configs", "where", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_before_anything_trains(tmp_path, trained, configs, where, message):
    with pytest.raises(FlatlibError, match=message):
        sweep.run(configs, tmp_path / "new" / "r.jsonl", replace(QUIET, **where))
    assert trained == []
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_folder_that_cannot_be_written_stops_before_anything_trains(tmp_path, trained):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlatlibError, match="cannot be written"):
        sweep.run([BASE], tmp_path / "file" / "r.jsonl", QUIET)
    assert trained == []


def test_a_damaged_record_stops_before_anything_trains(tmp_path, trained):
    (tmp_path / "r.jsonl").write_text("garbage\n")
    with pytest.raises(FlatlibError, match="line 1: not JSON"):
        sweep.run([BASE], tmp_path / "r.jsonl", QUIET)
    assert trained == []
    assert (tmp_path / "r.jsonl").read_text() == "garbage\n"


def test_progress_says_how_many_are_done_and_left(tmp_path, capsys):
    sweep.run(CONFIGS[:1], tmp_path / "r.jsonl", QUIET)
    assert capsys.readouterr().err == ""
    sweep.run(CONFIGS[:3], tmp_path / "r.jsonl", replace(QUIET, progress=True))
    shown = capsys.readouterr().err
    assert "r: 1 of 3 runs done, 2 left" in shown
    assert "r: 3 of 3 runs done, 0 left" in shown
    assert "spent" in shown
    assert "to go" in shown
