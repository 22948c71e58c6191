"""The command line: its output; bad input is one line and exit code 2, and nothing is written."""

import os
import re
import shutil
import subprocess
import sys
from unittest.mock import Mock

import pytest

from flatlib.book import execute
from flatlib.book.paths import find_root, notebooks
from flatlib.cli import main
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records

ROOT = find_root()
CONFIGS = grid(RunConfig(), seed=range(3))


@pytest.fixture(autouse=True)
def nothing_executes(monkeypatch):
    """Forbid notebooks: bad input must be found before one runs."""
    monkeypatch.setattr(execute, "run", None)
    monkeypatch.setattr(execute, "refresh", None)


@pytest.fixture
def record(tmp_path, line):
    """Return a record of two runs."""
    records.write(tmp_path / "r.jsonl", [line(config, lambda_max=2.5) for config in CONFIGS[:2]])
    return tmp_path / "r.jsonl"


def complaint(capsys, *arguments) -> str:
    """Return the message of `flatlib ...`, which must be all it prints."""
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:9]) == ("", 1, "flatlib: ")
    return err


BAD_RUNS = {
    "chapter": (["02_nothing"], "unknown chapter '02_nothing'; allowed: 01_lr_batch, .*all"),
    "one chapter of two": (["01_lr_batch", "nothing"], "unknown chapter 'nothing'"),
    "preset": (["all", "--preset", "huge"], "preset huge: .*presets: medium, .*small, smoke"),
    "device": (["all", "--device", "gpu"], "device: unknown name 'gpu'; allowed: auto, cpu, cuda"),
    "absent device": (["all", "--device", "cuda:99"], "'cuda:99' was requested, but torch sees"),
    "workers": (["all", "--workers", "0"], "workers: expected a whole number of at least 1"),
    "time": (["all", "--time-limit", "soon"], "--time-limit: expected a time such as 90, 8m or 2h"),
    "parameter": (["01_lr_batch", "-p", "seads", "[1]"], "unknown parameter 'seads'; allowed: .*seeds"),
    "parameter of one chapter only": (["all", "-p", "batch_sizes", "[1]"], "unknown parameter 'batch_sizes'"),
    "value": (["all", "-p", "seeds", "1"], r"seeds: expected a list such as \[1, 2\], got 1"),
    "output among the pages": (["all", "--output", ROOT / "book" / "claims"], "--output: .*only flatlib refresh"),
    "published records": (["all", "--no-notebook", "--records", ROOT / "book" / "records"], "only flatlib refresh"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_run_refuses(capsys, arguments, message):
    assert re.search(message, complaint(capsys, "run", *arguments))


@pytest.mark.parametrize("arguments", [["nothing"], ["all", "--preset", "huge"], ["all", "--device", "gpu"]])
def test_refresh_refuses(capsys, arguments):
    assert complaint(capsys, "refresh", *arguments)


@pytest.mark.parametrize("command", [["run", "all"], ["refresh", "all"], ["new", "12_x"], ["book"]], ids=" ".join)
def test_without_the_book_is_one_line(tmp_path, command):
    """An installed package is a copy without book/; the message comes before any heavy import."""
    shutil.copytree(ROOT / "flatlib", tmp_path / "flatlib", ignore=shutil.ignore_patterns("__pycache__"))
    heavy = ("torch", "pandas", "papermill", "matplotlib", "sphinx")
    script = f"import sys; sys.modules.update(dict.fromkeys({heavy})); from flatlib.cli import main; sys.exit(main())"
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", script, *command]
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "clone the book's repository" in done.stderr


@pytest.mark.parametrize("command", ["", "nonsense", "run", "run all -p seeds", "records merge x"])
def test_an_unknown_command_exits_with_2(command):
    with pytest.raises(SystemExit, match="2"):
        main(command.split())


@pytest.mark.parametrize("action", ["show", "check", "merge"])
def test_records_refuse_damage(capsys, tmp_path, record, action):
    record.write_text(f"{record.read_text()}{{oops}}\n")
    before = record.read_bytes()
    output = ["--output", tmp_path / "out.jsonl"] * (action == "merge")
    assert "line 3: not JSON" in complaint(capsys, "records", action, record, *output)
    assert record.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.jsonl"]


@pytest.mark.parametrize("path", ["absent.jsonl", "."])
def test_records_refuse_missing_files(capsys, tmp_path, path):
    assert "no such record" in complaint(capsys, "records", "check", tmp_path / path)


@pytest.mark.filterwarnings("default")
def test_records_check(capsys, record):
    """A torn last line is a warning."""
    assert main(["records", "check", str(record), str(record)]) == 0
    assert capsys.readouterr().out == f"{record}: 2 runs (2 reached, 0 capped, 0 diverged) on 1 data set(s)\n" * 2
    record.write_bytes(record.read_bytes()[:-20])
    assert main(["records", "check", str(record)]) == 0
    out, err = capsys.readouterr()
    assert "1 runs (1 reached, 0 capped, 0 diverged)" in out
    assert err == f"flatlib: warning: {record}: the last line is torn and was dropped\n"


def test_records_show(capsys, tmp_path, record):
    assert main(["records", "show", str(record)]) == 0
    head, first, *_, count = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["run_id", "dataset", "model", "seed", "status"], "settings that vary, no more"
    assert (first.split()[0], count) == (CONFIGS[0].run_id, "2 runs")
    (tmp_path / "empty.jsonl").write_text("")
    assert main(["records", "show", str(tmp_path / "empty.jsonl")]) == 0
    assert capsys.readouterr().out == "0 runs\n"


def test_records_power(capsys):
    assert main(["records", "power", "03_sam"]) == 0
    head, *rows, count = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("chapter", "scale", "prediction", "mean", "sd", "threshold", "n", "seeds", "minutes", "remark"),
    ]
    assert {row.split()[0] for row in rows} == {"03_sam"}
    assert count.startswith(f"{len(rows)} open predictions; ")


def test_records_merge(capsys, tmp_path, line, record):
    records.write(tmp_path / "s.jsonl", [line(config, lambda_max=2.5) for config in CONFIGS[1:]])
    output = tmp_path / "new" / "m.jsonl"
    for target in (output, record):  # the second time into one of the sources
        assert main(["records", "merge", str(record), str(tmp_path / "s.jsonl"), "--output", str(target)]) == 0
        assert list(records.read(target)) == [config.run_id for config in CONFIGS]
        assert "3 runs from 2 records" in capsys.readouterr().out


def test_a_failed_merge_writes_nothing(capsys, tmp_path, line, record):
    records.write(tmp_path / "s.jsonl", [line(CONFIGS[0], lambda_max=2.6)])
    before, merge = record.read_bytes(), ["records", "merge", record]
    message = complaint(capsys, *merge, tmp_path / "s.jsonl", "--output", tmp_path / "m.jsonl")
    assert f"run {CONFIGS[0].run_id} is recorded twice with different results (lambda_max 2.5 and 2.6)" in message
    assert "cannot be written" in complaint(capsys, *merge, "--output", record / "m.jsonl")
    assert (record.read_bytes(), sorted(os.listdir(tmp_path))) == (before, ["r.jsonl", "s.jsonl"])


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(execute, "run", Mock(side_effect=KeyboardInterrupt))
    assert main(["run", "01_lr_batch", "--device", "cpu"]) == 130
    assert "every finished run is in the record" in capsys.readouterr().err


def test_a_failed_chapter_stops_no_other(capsys, monkeypatch, tmp_path):
    first, *others = notebooks(ROOT)
    outcomes = [FlatlibError(f"{first}: all 4 runs diverged"), *["supported"] * len(others)]
    monkeypatch.setattr(execute, "run", Mock(side_effect=outcomes))
    assert main(["run", "all", "--device", "cpu", "--workers", "1", "--output", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{name}: supported" for name in others]
    assert f"flatlib: {first}: all 4 runs diverged\n" in err


def test_a_closed_pipe_is_no_error(tmp_path, line):
    """`flatlib records show RECORD | head`"""
    record = tmp_path / "r.jsonl"
    records.append(record, line(RunConfig()))
    show = f"'{sys.executable}' -m flatlib records show '{record}' | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", show], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
