"""The command line: what it prints, and what it says to bad input: one line, exit code 2, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    """Bad input must be found before a notebook runs."""

    def refuse(*arguments):
        raise AssertionError("a notebook was executed")

    monkeypatch.setattr(execute, "run", refuse)
    monkeypatch.setattr(execute, "refresh", refuse)


@pytest.fixture
def record(tmp_path, line):
    """A record of two runs."""
    records.write(tmp_path / "r.jsonl", [line(config, lambda_max=2.5) for config in CONFIGS[:2]])
    return tmp_path / "r.jsonl"


def complaint(capsys, arguments) -> str:
    """What `flatlib ...` complains about, which must be all it prints."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("flatlib: ")
    assert "Traceback" not in err
    return err


BAD_RUNS = {
    "chapter": (["02_nothing"], "unknown chapter '02_nothing'; allowed: 01_lr_batch, .*all"),
    "one chapter of two": (["01_lr_batch", "nothing"], "unknown chapter 'nothing'"),
    "preset": (["all", "--preset", "huge"], "preset huge: .*presets: medium, .*small, smoke"),
    "device": (["all", "--device", "gpu"], "device: unknown name 'gpu'; allowed: auto, cpu, cuda"),
    "absent device": (["all", "--device", "cuda:99"], "'cuda:99' was requested, but torch sees"),
    "malformed device": (["all", "--device", "cuda:x"], "device: .*'cuda:x'"),
    "workers": (["all", "--workers", "0"], "workers: expected a whole number of at least 1"),
    "parameter": (["01_lr_batch", "-p", "seads", "[1]"], "unknown parameter 'seads'; allowed: .*seeds"),
    "parameter of one chapter only": (["all", "-p", "batch_sizes", "[1]"], "unknown parameter 'batch_sizes'"),
    "list": (["all", "-p", "seeds", "1"], r"seeds: expected a list such as \[1, 2\], got 1"),
    "list of another type": (["all", "-p", "seeds", "[a]"], "seeds: expected int, got 'a'"),
    "torn list": (["all", "-p", "seeds", "[1, 2"], "seeds: .* is not a value of type"),
    "number": (["all", "-p", "width", "wide"], "width: expected a number, got 'wide'"),
    "whole number": (["all", "-p", "train_size", "1.5"], "train_size: expected int, got 1.5"),
    "output among the pages": (["all", "--output", ROOT / "book" / "claims"], "--output: .*only flatlib refresh"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_run_refuses(capsys, arguments, message):
    with pytest.raises(FlatlibError, match=message):
        raise FlatlibError(complaint(capsys, ["run", *arguments]))


@pytest.mark.parametrize("arguments", [["nothing"], ["all", "--preset", "huge"], ["all", "--device", "gpu"]])
def test_refresh_refuses(capsys, arguments):
    assert complaint(capsys, ["refresh", *arguments])


@pytest.mark.parametrize("command", [["run", "all"], ["refresh", "all"], ["new", "12_x"], ["book"]], ids=" ".join)
def test_a_package_without_the_book_says_so_at_once(tmp_path, command):
    """An installed package is a copy without book/; nothing heavy is imported before it says where the book is."""
    shutil.copytree(ROOT / "flatlib", tmp_path / "flatlib", ignore=shutil.ignore_patterns("__pycache__"))
    heavy = ("torch", "pandas", "papermill", "matplotlib", "sphinx")
    script = f"import sys; sys.modules.update(dict.fromkeys({heavy})); from flatlib.cli import main; sys.exit(main())"
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=tmp_path, env=there, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "clone the book's repository" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["run"], ["run", "all", "-p", "seeds"], ["records", "merge", "x"]]
)
def test_a_command_that_is_not_one_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


DAMAGE = {
    "not JSON": (b"{oops}\n", "line 3: not JSON"),
    "another version's field": (None, "line 3: .*unknown name 'patience'"),
    "not a run": (b"[]\n", "line 3: expected the fields"),
}


@pytest.mark.parametrize("action", ["show", "check", "merge"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_records_refuse_damage(capsys, tmp_path, line, record, action, damage, message):
    foreign = line(CONFIGS[2])
    foreign["config"] = foreign["config"] | {"patience": 0.9}
    record.write_bytes(record.read_bytes() + (damage or json.dumps(foreign).encode() + b"\n"))
    before = record.read_bytes()
    output = ["--output", tmp_path / "out.jsonl"] * (action == "merge")
    with pytest.raises(FlatlibError, match=message):
        raise FlatlibError(complaint(capsys, ["records", action, record, *output]))
    assert record.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.jsonl"]


@pytest.mark.parametrize("action", ["show", "check", "merge"])
@pytest.mark.parametrize("path", ["absent.jsonl", "."])
def test_records_refuse_what_is_not_there(capsys, tmp_path, action, path):
    output = ["--output", tmp_path / "out.jsonl"] * (action == "merge")
    assert "no such record" in complaint(capsys, ["records", action, tmp_path / path, *output])


@pytest.mark.filterwarnings("default")
def test_a_torn_last_line_is_a_warning(capsys, record):
    record.write_bytes(record.read_bytes()[:-20])
    assert main(["records", "check", str(record)]) == 0
    out, err = capsys.readouterr()
    assert "1 runs (1 reached, 0 capped, 0 diverged)" in out
    assert err == f"flatlib: warning: {record}: the last line is torn and was dropped\n"


def test_records_show(capsys, tmp_path, line, record):
    assert main(["records", "show", str(record)]) == 0
    out = capsys.readouterr().out
    assert "2 runs" in out
    assert out.splitlines()[0].split()[:5] == ["run_id", "dataset", "model", "seed", "status"], "what varies, no more"
    assert CONFIGS[0].run_id in out
    (tmp_path / "empty.jsonl").write_text("")
    assert main(["records", "show", str(tmp_path / "empty.jsonl")]) == 0
    assert "0 runs" in capsys.readouterr().out


def test_records_check(capsys, record):
    assert main(["records", "check", str(record), str(record)]) == 0
    assert capsys.readouterr().out == f"{record}: 2 runs (2 reached, 0 capped, 0 diverged) on 1 data set(s)\n" * 2


def test_records_merge(capsys, tmp_path, line, record):
    records.write(tmp_path / "s.jsonl", [line(config, lambda_max=2.5) for config in CONFIGS[1:]])
    output = tmp_path / "new" / "m.jsonl"
    for target in (output, record):  # the second time into one of the sources
        assert main(["records", "merge", str(record), str(tmp_path / "s.jsonl"), "--output", str(target)]) == 0
        assert list(records.read(target)) == [config.run_id for config in CONFIGS]
        assert "3 runs from 2 records" in capsys.readouterr().out


def test_a_contradiction_in_a_merge_writes_nothing(capsys, tmp_path, line, record):
    records.write(tmp_path / "s.jsonl", [line(CONFIGS[0], lambda_max=2.6)])
    said = complaint(capsys, ["records", "merge", record, tmp_path / "s.jsonl", "--output", tmp_path / "m.jsonl"])
    assert f"run {CONFIGS[0].run_id} is recorded twice with different results (lambda_max 2.5 and 2.6)" in said
    assert sorted(os.listdir(tmp_path)) == ["r.jsonl", "s.jsonl"]


def test_a_merge_that_cannot_be_written(capsys, record):
    before = record.read_bytes()
    assert "cannot be written" in complaint(capsys, ["records", "merge", record, "--output", record / "m.jsonl"])
    assert record.read_bytes() == before


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "run", interrupt)
    assert main(["run", "01_lr_batch", "--device", "cpu"]) == 130
    assert "every finished run is in the record" in capsys.readouterr().err


def test_a_chapter_that_fails_does_not_stop_the_next(capsys, monkeypatch, tmp_path):
    def fail_first(root, name, values, output: Path):
        if name.startswith("01"):
            raise FlatlibError("01_lr_batch: all 4 runs diverged")
        return "supported"

    monkeypatch.setattr(execute, "run", fail_first)
    assert main(["run", "all", "--device", "cpu", "--workers", "1", "--output", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{name}: supported" for name in notebooks(ROOT) if not name.startswith("01")]
    assert "flatlib: 01_lr_batch: all 4 runs diverged\n" in err


@pytest.mark.parametrize("module", ["flatlib", "flatlib.cli"])
def test_a_real_process_exits_with_2(module):
    command = [sys.executable, "-m", module, "run", "02_nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("flatlib: unknown chapter '02_nothing'")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, line):
    """`flatlib records show RECORD | head`"""
    record = tmp_path / "r.jsonl"
    records.append(record, line(RunConfig()))
    show = f"'{sys.executable}' -m flatlib.cli records show '{record}' | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", show], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
