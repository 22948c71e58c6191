"""Records: reading returns exactly what was written, a torn end costs one line at most, other damage is an error."""

import json
import os
import warnings
from unittest.mock import Mock

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlib.cli import main
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.records import RecordWarning, append, finite, read, table, trajectories, write

CONFIGS = grid(RunConfig(track=("train_loss",), track_every=1), seed=range(3))
EXACT = {"a": 0.1 + 0.2, "b": 5e-324, "c": 1.7976931348623157e308, "d": -0.0, "e": 7, "f": True}


@pytest.fixture
def lines(line):
    """Three runs, the second with a trajectory."""
    made = [line(config, lambda_max=1.5 + config.seed, **EXACT) for config in CONFIGS]
    made[1]["trajectory"] = {"update": [0, 1], "train_loss": [2.3, 1 / 3]}
    return made


@pytest.fixture
def path(tmp_path, lines):
    """A record of them."""
    write(tmp_path / "r.jsonl", lines)
    return tmp_path / "r.jsonl"


def by_id(lines):
    return {line["run_id"]: line for line in lines}


def changed(line, **fields) -> bytes:
    return json.dumps(line | fields).encode() + b"\n"


@pytest.mark.parametrize("how", ["append", "write"])
def test_round_trip_is_exact(tmp_path, lines, how):
    path = tmp_path / "new" / "folder" / "r.jsonl"
    if how == "write":
        write(path, lines)
    for line in lines * (how == "append"):
        append(path, line)
    assert read(path) == by_id(lines)
    assert list(read(path)) == [line["run_id"] for line in lines]
    assert path.read_bytes().count(b"\n") == 3


def test_infinite_numbers_become_null(tmp_path, lines):
    odd = lines[0] | {"measures": {"x": float("nan"), "y": float("inf")}, "trajectory": {"z": [1.0, float("-inf")]}}
    append(tmp_path / "r.jsonl", odd)
    (line,) = read(tmp_path / "r.jsonl").values()
    assert (line["measures"], line["trajectory"]) == ({"x": None, "y": None}, {"z": [1.0, None]})
    assert finite(odd) == line
    assert table([line])["x"].isna().all()


def test_torn_last_line_is_repaired(path, lines):
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.warns(RecordWarning, match="the last line is torn and was dropped"):
        assert read(path) == by_id(lines[:2])
    append(path, lines[2])
    assert read(path) == by_id(lines)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whole_lines_survive_any_cut(tmp_path_factory, line, data):
    """A last line needs no newline."""
    lines = [line(config, lambda_max=0.1) for config in CONFIGS]
    path = tmp_path_factory.mktemp("cut") / "r.jsonl"
    write(path, lines)
    content = path.read_bytes()
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    cut = data.draw(st.sampled_from(ends) | st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = sum(end <= cut for end in ends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordWarning)
        assert read(path) == by_id(lines[:whole])
    append(path, lines[2])
    assert read(path) == by_id(lines[:whole] + lines[2:])


VERSION, CONFIG = "another version", CONFIGS[0].to_json()
DAMAGE = {  # a whole line, or changed fields of one, and the message
    "not JSON": (b"{oops}", "not JSON"),
    "not text": (b"\xff\xfe\0", "not JSON"),
    "NaN": ({"measures": {"x": float("nan")}}, "not JSON"),
    "infinity": ({"measures": {"x": float("-inf")}}, "not JSON"),
    "empty": (b"", "not JSON"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "a list": (b"[1]", "expected the fields run_id"),
    "a field is missing": (b'{"run_id": "1"}', "expected the fields run_id"),
    "a field too many": ({"note": "hello"}, "expected the fields .* found .*note"),
    "status": ({"status": "finished"}, "unknown status 'finished'; allowed: reached"),
    "measures a list": ({"measures": [1]}, ".* must be objects"),
    "measure a text": ({"measures": {"x": "1"}}, "measure x is not a number"),
    "columns of two lengths": ({"trajectory": {"a": [1], "b": []}}, ".* one length"),
    "column a number": ({"trajectory": {"a": 1}}, ".* lists"),
    "column of texts": ({"trajectory": {"a": ["1"]}}, ".* not a number"),
    "another field": ({"config": CONFIG | {"patience": 0.9}}, f".*unknown name 'patience'.*{VERSION}"),
    "another value": ({"config": CONFIG | {"model": "vgg19"}}, f"model: unknown name 'vgg19'.*{VERSION}"),
    "seed true": ({"config": CONFIG | {"seed": True}}, f"seed: .*{VERSION}"),
    "seed a float": ({"config": CONFIG | {"seed": 1.0}}, "seed: .*"),
    "run_id of other settings": ({"run_id": "0" * 16}, ".*does not hash to run_id"),
    "run_id a list": ({"run_id": []}, ".*does not hash to run_id"),
    "twice, differently": ({"measures": {"lambda_max": 9.0}}, "run .* recorded twice with different results .*"),
    "twice, other end": ({"status": "capped"}, ".*status reached and capped"),
    "twice, other path": ({"trajectory": {"update": [0]}}, ".*the trajectories"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_names_its_line(path, lines, damage, message):
    first, *rest = path.read_bytes().splitlines(keepends=True)
    bad = damage + b"\n" if isinstance(damage, bytes) else changed(lines[0], **damage)
    path.write_bytes(first + bad + b"".join(rest))
    before = path.read_bytes()
    with pytest.raises(FlatlibError, match=f"line 2: {message}") as error:
        read(path)
    assert str(error.value).startswith(f"{path}, ")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "changes", [{"config": CONFIG | {"patience": 0.9}}, {"measures": {"lambda_max": 9.0}}], ids=str
)
def test_whole_last_line_is_checked(path, lines, changes):
    bad = changed(lines[0], **changes)
    path.write_bytes(path.read_bytes() + bad.rstrip())
    with pytest.raises(FlatlibError, match="last line"):
        read(path)
    append(path, lines[2])
    assert bad in path.read_bytes()


def test_same_run_twice_may_agree(path, lines):
    path.write_bytes(path.read_bytes() + changed(lines[0], provenance={"device": "cuda"}))
    assert list(read(path)) == [line["run_id"] for line in lines]


def test_write_replaces_as_a_whole(path, lines, monkeypatch):
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(FlatlibError, match="No space left on device"):
            write(path, lines[:1])
    assert path.read_bytes() == before
    write(path, lines[:1])
    assert read(path) == by_id(lines[:1])
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("how", ["append", "write", "check_writable"])
@pytest.mark.parametrize("place", ["a file's child", "a folder"])
def test_unwritable_place_is_one_line(tmp_path, lines, how, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / {"a file's child": "file/r.jsonl", "a folder": "folder"}[place]
    arguments = {"append": (path, lines[0]), "write": (path, lines), "check_writable": (path,)}[how]
    with pytest.raises(FlatlibError, match=f"{path}: cannot be written") as error:
        getattr(records, how)(*arguments)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_folder_is_no_record(tmp_path):
    assert read(tmp_path / "absent.jsonl") == {}
    with pytest.raises(FlatlibError, match="cannot be read"):
        read(tmp_path)


def test_table_has_a_row_per_run(lines):
    lines[2]["measures"] = {"updates": 4}
    runs = table(lines)
    assert len(runs) == 3
    assert runs["seed"].tolist() == [0, 1, 2]
    assert set(CONFIGS[0].to_json()) - {"measures", "track"} < set(runs)
    assert runs["lambda_max"].isna().tolist() == [False, False, True]
    assert runs["data"].unique().tolist() == ["f00d"]


def test_trajectories_have_a_row_per_point(lines):
    long = trajectories(table(lines))
    assert long["update"].tolist() == [0, 1]
    assert long["train_loss"].tolist() == [2.3, 1 / 3]
    assert set(long["run_id"]) == {lines[1]["run_id"]}
    assert (long["seed"] == 1).all()
    assert trajectories(table([])).empty
    assert isinstance(trajectories(table(lines[:1])), pd.DataFrame)


def test_merged_folders_keep_what_is_there(tmp_path, lines, capsys):
    folders = [tmp_path / name for name in ("one", "two", "book")]
    for folder, line in zip(folders, lines, strict=True):
        append(folder / "01_a" / "paper.jsonl", line)
    records.append_failure(folders[0] / "01_a" / "paper.jsonl", CONFIGS[0], "no")
    (folders[0] / "03_c").mkdir()
    (folders[0] / "03_c" / "paper.jsonl").touch()
    append(folders[1] / "02_b" / "paper.jsonl", lines[0])
    assert main(["records", "merge", *map(str, folders[:2]), "--output", str(folders[2])]) == 0
    merged = read(folders[2] / "01_a" / "paper.jsonl").values()
    assert [line["config"]["seed"] for line in merged] == [2, 0, 1], "the runs that were there come first"
    assert sorted(path.name for path in folders[2].rglob("*.*")) == ["paper.jsonl"] * 2
    append(folders[0] / "02_b" / "paper.jsonl", lines[0] | {"measures": {"lambda_max": 1.0}})
    before = [path.read_bytes() for path in folders[2].rglob("*.jsonl")]
    for more, message in (([], "recorded twice with different results"), ([tmp_path / "absent"], "no such folder")):
        assert main(["records", "merge", *map(str, [folders[0], *more]), "--output", str(folders[2])]) == 2
        assert message in capsys.readouterr().err
    assert [path.read_bytes() for path in folders[2].rglob("*.jsonl")] == before
