"""Runs trained where no notebook runs: a list made here, a sweep that is killed and goes on, a merge, a full page."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from chapter_pages import QUICK, ROOT, open_page, smoke

from flatlib.cli import main
from flatlib.cli.jobs import ORDER
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records, run_list, slot, sweep
from flatlib.runs.requirements import require_packages

CHAPTER = "03_sam"
TINY = grid(RunConfig(width=0.05, train_size=100, test_size=50, max_epochs=2, measures=("performance",)), seed=[0, 1])
GIVEN = [part for name, value in QUICK[CHAPTER].items() for part in ("-p", name, str(value))]
NOT_THERE = (
    *("matplotlib", "IPython", "papermill", "nbformat", "nbclient", "myst_nb", "jupyter_book", "yaml"),
    *("torchvision", "pytorch_optimizer", "pyhessian", "PIL"),
)
BARE = f"import sys; sys.modules.update(dict.fromkeys({NOT_THERE})); from flatlib.cli import main; sys.exit(main())"


@pytest.fixture
def listed(tmp_path, capsys):
    """A list of the missing runs of one chapter at tiny size, as the command writes it."""
    path, place = tmp_path / "list.jsonl", str(tmp_path / "none")
    assert main(["plan", CHAPTER, "--preset", "smoke", *GIVEN, "--records", place, "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{CHAPTER}: 8 of 8 runs\n{path}: 8 missing runs\n"
    return path


def test_a_list_is_read_as_it_was_written(tmp_path):
    groups = {("01_lr_batch", "paper"): TINY, ("03_sam", "paper"): TINY[:1]}
    run_list.write(tmp_path / "new" / "list.jsonl", groups)
    assert run_list.read(tmp_path / "new" / "list.jsonl") == groups


BAD = {
    "not JSON": ("{oops", "line 1: not JSON"),
    "not a run": ("[]", "line 1: expected the fields chapter, preset, run_id, config"),
    "another folder": (("../03_sam", "paper", TINY[0].run_id, TINY[0].to_json()), "line 1: not a chapter and a preset"),
    "no name": ((3, "paper", TINY[0].run_id, TINY[0].to_json()), "line 1: not a chapter and a preset"),
    "another version": (("03_sam", "paper", "0", {"patience": 3}), "line 1: .*'patience'.*another version of flatlib"),
    "another run": (("03_sam", "paper", "0", TINY[0].to_json()), "line 1: the configuration does not hash to .*'0'"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_list_is_one_line(tmp_path, line, message):
    if not isinstance(line, str):
        line = run_list.json.dumps(dict(zip(run_list.FIELDS, line, strict=True)))
    (tmp_path / "list.jsonl").write_text(line + "\n")
    with pytest.raises(FlatlibError, match=message):
        run_list.read(tmp_path / "list.jsonl")


def test_the_order_has_every_chapter():
    assert sorted(ORDER) == sorted(path.name[:2] for path in (ROOT / "book" / "claims").glob("[0-9]*.ipynb"))


def test_a_list_of_all_begins_with_the_most_valuable_chapters(tmp_path, capsys):
    plan = ["plan", "all", "--preset", "smoke", "--records", str(tmp_path), "--output", str(tmp_path / "list.jsonl")]
    assert main(plan) == 0
    groups = run_list.read(tmp_path / "list.jsonl")
    assert [chapter[:2] for chapter, _ in groups] == list(ORDER)
    told = capsys.readouterr().out
    assert "07_adam_vs_sgd: 45 more are chosen by these: plan again when they are recorded\n" in told
    tuning = groups["07_adam_vs_sgd", "smoke"]
    assert {config.validation_size is not None for config in tuning} == {True}


def sweep_there(listed, out, *more) -> subprocess.Popen:
    """`flatlib sweep` on a machine that has none of the notebook's packages."""
    command = [sys.executable, "-c", BARE, "sweep", listed, "--records", out, "--device", "cpu", *more]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_sweep_that_is_killed_goes_on_and_the_page_then_misses_nothing(monkeypatch, tmp_path, listed):
    out, record = tmp_path / "out", tmp_path / "out" / CHAPTER / "smoke.jsonl"
    driver = sweep_there(listed, out)
    while driver.poll() is None and not (record.exists() and record.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = records.read(record)
    assert 2 <= len(before) < 8, "killed in the middle"
    assert len({line["config"]["seed"] for line in list(before.values())[:4]}) == 1, "whole seeds first"

    driver = sweep_there(listed, out)
    said, progress = driver.communicate()
    assert (driver.returncode, said) == (0, f"{CHAPTER} smoke: 8 of 8 runs recorded\n"), progress
    after = records.read(record)
    assert {run_id: after[run_id] for run_id in before} == before

    merged = tmp_path / "merged"
    assert main(["records", "merge", str(out), "--output", str(merged)]) == 0
    monkeypatch.setattr("flatlib.runs.sweep.train", None)
    open_page(monkeypatch, CHAPTER, smoke(CHAPTER) | {"records": str(merged), "device": "cpu"})
    assert records.read(merged / CHAPTER / "smoke.jsonl") == after


def test_the_script_trains_and_merges_in_one_command(tmp_path):
    (tmp_path / "book" / "records").mkdir(parents=True)
    script = shutil.copy(ROOT / "book" / "records" / "gpu.sh", tmp_path / "book" / "records")
    run_list.write(tmp_path / "list.jsonl", {(CHAPTER, "paper"): TINY})
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    there = os.environ | {"PYTHON": sys.executable, "DEVICE": "cpu", "PYTHONPATH": paths}
    command = ["sh", script, "data", "out", "0", "list.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    merged = records.read(tmp_path / "book" / "records" / CHAPTER / "paper.jsonl")
    assert set(merged) == {config.run_id for config in TINY}
    assert subprocess.run(["sh", script], capture_output=True, text=True).stderr.startswith("The missing paper-scale")


@pytest.fixture
def groups():
    """Two chapters."""
    return {("01_a", "paper"): TINY, ("02_b", "paper"): [replace(config, momentum=0) for config in TINY]}


@pytest.fixture
def slots(monkeypatch):
    """What is trained, in order, and in how much time; nothing is."""
    asked = []

    def remember(configs, record, execution, known):
        asked.append((record.parent.name, [config.seed for config in configs], execution.time_limit))
        if record.parent.name == "01_a":
            raise FlatlibError("1 of 2 runs failed")

    monkeypatch.setattr(sweep, "run", remember)
    return asked


def test_a_chapter_that_ends_early_does_not_stop_the_next(tmp_path, groups, slots):
    errors = list(slot.spend(groups, tmp_path, Execution(device="cpu"), None))
    assert slots == [("01_a", [0, 1], None), ("02_b", [0, 1], None)]
    assert list(map(str, errors)) == ["01_a paper: 1 of 2 runs failed"]


def test_what_fits_no_slot_comes_after_all_chapters(tmp_path, groups, slots):
    records.append_failure(tmp_path / "01_a" / "paper.jsonl", TINY[0], "not done when time was up", seconds=60)
    list(slot.spend(groups, tmp_path, Execution(device="cpu", time_limit=60), None))
    assert [asked[:2] for asked in slots] == [("01_a", [1]), ("02_b", [0, 1]), ("01_a", [0])]
    assert 60 >= slots[0][2] >= slots[1][2] >= slots[2][2] > 50, "one limit for all"


def test_what_is_committed_is_not_trained_again(tmp_path, groups, line):
    records.append(tmp_path / "committed" / "01_a" / "small.jsonl", line(TINY[0]))
    left = slot.left_out(groups, tmp_path / "out", tmp_path / "committed")
    assert [len(configs) for configs in left.values()] == [1, 2]


def test_absent_data_stop_everything_at_once(tmp_path, groups, slots):
    groups["02_b", "paper"] = [replace(TINY[0], dataset="absent.npz")]
    with pytest.raises(FlatlibError, match=r"dataset absent\.npz: no file"):
        list(slot.spend(groups, tmp_path, Execution(device="cpu"), None))
    assert slots == []


def test_packages_that_are_not_there_are_named(monkeypatch):
    there = ("torch", "numpy", "pandas", "scipy", "psutil", "filelock", "orjson")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in there else None)
    with pytest.raises(FlatlibError, match=r"not installed here: tqdm$"):
        require_packages([RunConfig(dataset="mnist")])
    with pytest.raises(FlatlibError, match=r": tqdm, torchvision, pytorch-optimizer$"):
        require_packages([RunConfig(dataset="cifar10", model="vgg11", optimizer="adabound")])


def test_an_old_torch_is_named(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.6.0+cu124")
    with pytest.raises(FlatlibError, match=r"torch 2\.6\.0\+cu124 is too old, at least 2\.11 is wanted"):
        require_packages([])


def test_published_records_are_not_written_by_a_sweep(listed, capsys):
    assert main(["sweep", str(listed), "--records", str(ROOT / "book" / "records")]) == 2
    assert "is published; merge into it" in capsys.readouterr().err


def test_folders_are_merged_into_what_is_there(tmp_path, line, capsys):
    folders = [tmp_path / name for name in ("one", "two", "book")]
    for folder, config in zip(folders, [*TINY, replace(TINY[0], seed=7)], strict=True):
        records.append(folder / "01_a" / "paper.jsonl", line(config))
    records.append_failure(folders[0] / "01_a" / "paper.jsonl", TINY[0], "no")
    (folders[0] / "03_c").mkdir()
    (folders[0] / "03_c" / "paper.jsonl").touch()
    records.append(folders[1] / "02_b" / "paper.jsonl", line(TINY[0]))
    assert main(["records", "merge", *map(str, folders[:2]), "--output", str(folders[2])]) == 0
    assert [line["config"]["seed"] for line in records.read(folders[2] / "01_a" / "paper.jsonl").values()] == [7, 0, 1]
    assert sorted(path.name for path in folders[2].rglob("*.jsonl")) == ["paper.jsonl"] * 2
    records.append(folders[0] / "02_b" / "paper.jsonl", line(TINY[0], lambda_max=1.0))
    before = [path.read_bytes() for path in folders[2].rglob("*.jsonl")]
    assert main(["records", "merge", str(folders[0]), "--output", str(folders[2])]) == 2
    assert "recorded twice with different results" in capsys.readouterr().err
    assert [path.read_bytes() for path in folders[2].rglob("*.jsonl")] == before
