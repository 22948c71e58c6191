"""Chapters trained without their notebooks: packages not needed, kills, time limits, two stages."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from chapter_pages import ROOT, given, open_page, quick
from flatlib.book import headless
from flatlib.book.execute import refresh
from flatlib.book.headless import missing_runs, plan, progress, train
from flatlib.cli import main
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records

NAME, TUNED = "03_sam", "07_adam_vs_sgd"
NOTEBOOK = (
    *("papermill", "nbformat", "nbclient", "IPython", "ipykernel", "jupyter_core", "jupyter_book", "myst_nb"),
    *("matplotlib", "bokeh", "sklearn"),  # not sphinx: SciPy takes the name in sys.modules for the package
)
BARE = f"import sys; sys.modules.update(dict.fromkeys({NOTEBOOK})); from flatlib.cli import main; sys.exit(main())"


@pytest.fixture
def data(tmp_path):
    """Return a folder with small images of ten classes as mnist.npz."""
    labels = np.arange(400, dtype=np.uint8) % 10
    images = np.random.default_rng(0).integers(0, 60, (400, 8, 8), dtype=np.uint8) + 15 * labels[:, None, None]
    parts = {"x_train": images[:200], "y_train": labels[:200], "x_test": images[200:], "y_test": labels[200:]}
    np.savez(tmp_path / "mnist.npz", **parts)
    return tmp_path


def run_bare(out, *more, **environment) -> subprocess.Popen:
    """Start `flatlib run --no-notebook` in a Python that can import no package of notebooks and figures."""
    command = ["run", NAME, "--no-notebook", "--records", out, "--device", "cpu", "--workers", 1]
    command += [*given(NAME), "-p", "dataset", "mnist", "-p", "max_epochs", 30, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", BARE, *map(str, command)], env=os.environ | environment, **pipes)


def test_a_killed_command_resumes(monkeypatch, tmp_path, data):
    out, record = tmp_path / "out", tmp_path / "out" / NAME / "smoke.jsonl"
    driver = run_bare(out, "--data", data)
    try:
        while driver.poll() is None and not (record.exists() and record.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    before = records.read(record)
    assert 2 <= len(before) < 8, "killed in the middle"
    assert len({line["config"]["seed"] for line in list(before.values())[:4]}) == 1, "whole seeds first"

    driver = run_bare(out, FLATLIB_DATA=str(data))
    printed, errors = driver.communicate()
    assert (driver.returncode, printed) == (0, f"{NAME} smoke: 8 of 8 runs recorded\n"), errors
    after = records.read(record)
    assert {run_id: after[run_id] for run_id in before} == before

    monkeypatch.setattr("flatlib.runs.executors.train", None)
    open_page(monkeypatch, quick(NAME, records=str(out), dataset="mnist", max_epochs=30))
    assert records.read(record) == after


def test_a_missing_data_set_stops_first(tmp_path):
    driver = run_bare(tmp_path / "out", "--data", tmp_path / "none", "-p", "dataset", "none.npz")
    printed, errors = driver.communicate()
    assert (driver.returncode, printed, errors.count("\n")) == (2, "", 1)
    assert "none.npz" in errors
    assert not (tmp_path / "out").exists()


@pytest.fixture
def swept(monkeypatch, line):
    """Return a list of what is swept: every run is recorded at once, or fails where its seed is 666."""
    calls = []

    def sweep(configs, record, execution, known):
        calls.append((record.parent.name, len(configs), execution.time_limit))
        for config in configs:
            if config.seed == 666:
                records.append_failure(record, config, "no memory")
                raise FlatlibError("1 of 1 runs failed")
            records.append(record, line(config, validation_accuracy=1 / (1 + config.learning_rate)))

    monkeypatch.setattr(headless.sweep, "run", sweep)
    return calls


def chapters(tmp_path, **values) -> list:
    return [quick(name, records=str(tmp_path), **values) for name in (TUNED, NAME)]


def test_tuning_comes_before_main_runs(tmp_path, swept):
    both = chapters(tmp_path)
    trials = len(both[0].requests())
    assert progress(both[0]) == (False, f"{TUNED} smoke: 0 of {trials} runs recorded; 18 more runs are chosen by these")
    assert list(train(both)) == []
    assert swept == [(TUNED, trials, None), (TUNED, 18, None), (NAME, 8, None)]
    assert [missing_runs(chapter) for chapter in both] == [[], []]
    assert progress(both[0]) == (True, f"{TUNED} smoke: {trials + 18} of {trials + 18} runs recorded")
    assert (list(train(both)), len(swept)) == ([], 3), "nothing is trained twice"


def test_chapters_share_the_time_limit(monkeypatch, tmp_path, swept):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(headless.time, "monotonic", lambda: next(clock))
    both = chapters(tmp_path)
    assert list(train(both, time_limit=10)) == []
    assert [limit for _, _, limit in swept] == [6, 2]
    assert len(missing_runs(both[1])) == 8


def test_failed_runs_come_last(tmp_path, swept):
    both = [quick(NAME, records=str(tmp_path), seeds=[666, 1]), quick("04_dropout", records=str(tmp_path))]
    assert [str(error).partition(":")[0] for error in train(both)] == [NAME]
    assert [name for name, *_ in swept] == [NAME, "04_dropout"]
    swept.clear()
    list(train(both))
    assert [name for name, *_ in swept] == [NAME, NAME], "what had not failed, then what had"


def test_a_plan_counts_chosen_runs(tmp_path):
    table, (note,) = plan(chapters(tmp_path), workers=1)
    row = table.set_index("chapter").loc[TUNED]
    assert (row["runs"], row["recorded"]) == (22, 0)
    assert note.startswith(f"{TUNED}: 18 of the missing runs")


def test_published_runs_are_complete(capsys):
    assert main(["run", "01_lr_batch", "--preset", "small", "--dry-run", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].split()[:4] == ["total", "60", "60", "0"]


def test_refresh_completes_prunes_and_publishes(monkeypatch, tmp_path, line):
    for name in ("claims", "presets"):
        shutil.copytree(ROOT / "book" / name, tmp_path / "book" / name)
    folder = tmp_path / "book" / "records" / NAME
    shutil.copytree(ROOT / "book" / "records" / NAME, folder)  # with the page's own scale
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    record, before = folder / "smoke.jsonl", (folder / "small.jsonl").read_bytes()
    records.append(record, line(RunConfig()))  # not a run of the chapter
    chapter = quick(NAME, max_epochs=30)
    assert refresh(chapter).startswith("inconclusive: ")
    assert list(records.read(record)) == [config.run_id for config in chapter.requests()]
    assert (folder / "small.jsonl").read_bytes() == before
    assert "smoke" in chapter.source.read_text(), "its verdicts are on the page"
    assert not (tmp_path / "_build").exists()
