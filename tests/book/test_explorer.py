"""The Explorer's data: every committed run once, as it is recorded; its axes; its files."""

import json

import pytest

from flatlib.book import explorer, overview
from flatlib.book.explorer import SETTINGS, columns, label
from flatlib.book.paths import find_root, notebooks
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.figures import COLUMNS
from flatlib.figures.axes import AT_LOSS
from flatlib.runs import records

ROOT = find_root()
LINES = {
    (path.parent.name, path.stem): records.read(path)
    for chapter in notebooks(ROOT)
    for path in records.list_records(ROOT / "book" / "records" / chapter).values()
}


@pytest.fixture(scope="module")
def data():
    """What the page reads, after its way through JSON."""
    titles = {chapter: explorer.chapter_title(path) for chapter, path in notebooks(ROOT).items()}
    return json.loads(json.dumps(columns(overview.read_records(ROOT), titles), allow_nan=False))


def test_every_committed_run_is_there_once(data):
    assert len(set(data["run_id"])) == len(data["run_id"])
    assert set(data["run_id"]) == {run_id for lines in LINES.values() for run_id in lines}
    assert [tuple(place) for place in data["places"]] == sorted(LINES)


def test_runs_are_in_their_places(data):
    for position, place in enumerate(map(tuple, data["places"])):
        here = [run_id for run_id, places in zip(data["run_id"], data["in"], strict=True) if position in places]
        assert set(here) == set(LINES[place])


def test_every_number_is_that_of_the_record(data):
    position = {run_id: i for i, run_id in enumerate(data["run_id"])}
    seen = set()
    for lines in LINES.values():
        for run_id, line in lines.items():
            i = position[run_id]
            assert data["status"][i] == line["status"]
            for name in data["measures"]:
                tracked = [v for v in line["trajectory"].get(name.removeprefix("peak_"), []) if v is not None]
                recorded = max(tracked, default=None) if name.startswith("peak_") else line["measures"].get(name)
                assert data["measures"][name][i] == recorded, (run_id, name)
                seen |= {name} if recorded is not None else set()
            for name, setting in data["settings"].items():
                value = line["config"].get(name, SETTINGS[name])
                value = "+".join(value) if isinstance(value, list) else value
                assert setting["values"][setting["index"][i]] == value, (run_id, name)
    assert seen == set(data["measures"]), "a measure that no run has"


def test_every_recorded_measure_is_offered(data):
    recorded = {name for lines in LINES.values() for line in lines.values() for name in line["measures"]}
    wanted = {name for name in recorded if name.removesuffix(AT_LOSS) in COLUMNS}
    offered = [axis["name"] for axis in data["axes"]]
    assert wanted <= set(offered)
    assert len(set(offered)) == len(offered)
    assert {"lambda_max", "trace", "frobenius", "jacobian_norm", "minimum_sharpness", "gradient_norm"} <= wanted


def test_names_are_plain_text(data):
    for name in COLUMNS:
        assert not set(label(name)) & set("\\${}"), name
    assert label("lambda_max" + AT_LOSS) == "Sharpness λ_max, at equal loss"
    names = [axis["label"] for axis in data["axes"]]
    assert len(set(names)) == len(names), "two axes of one name"


@pytest.fixture
def tables(line):
    """Two chapters that share a run; one of them varies the learning rate, the other the optimizer."""
    base = RunConfig(track=("lambda_max",), track_every=1)
    rates = [RunConfig(learning_rate=rate, seed=seed) for rate in (0.1, 0.2) for seed in (0, 1)]
    followed = line(base, trajectory={"update": [0, 1, 2], "lambda_max": [1.0, 7.0, None]}, lambda_max=None)
    others = [rates[0], RunConfig(optimizer="adam", learning_rate=0.01)]
    return {
        ("01_one", "small"): records.table([line(config, lambda_max=1.0) for config in rates]),
        ("02_two", "small"): records.table([*(line(config, lambda_max=1.0) for config in others), followed]),
    }


def test_a_shared_run_is_listed_once(tables):
    found = columns(tables, {"01_one": "1. One", "02_two": "2. Two"})
    assert len(found["run_id"]) == 6
    assert found["in"] == [[0, 1], [0], [0], [0], [1], [1]]
    assert found["varies"] == [["learning_rate", "seed"], ["optimizer", "learning_rate", "track_every"]]
    assert found["settings"]["optimizer"]["values"] == ["adam", "sgd"]
    assert "batch_size" not in found["settings"], "a setting at its default everywhere"
    assert found["held"] == {
        "any two runs": None,
        "same experiment": [],
        "same learning rate and batch size, too": ["learning_rate"],
    }


def test_the_peak_is_a_measure(tables):
    found = columns(tables, {"01_one": "1. One", "02_two": "2. Two"})
    assert found["measures"]["peak_lambda_max"] == [None] * 5 + [7.0]
    assert found["measures"]["lambda_max"] == [1.0] * 5 + [None]
    assert "peak_update" not in found["measures"]


def test_the_files_are_written(tmp_path):
    explorer.write(ROOT, tmp_path / "explorer")
    script = (tmp_path / "explorer" / "runs.js").read_text(encoding="utf-8")
    assert script.startswith("window.flatlibRuns = {")
    assert len(json.loads(script.partition(" = ")[2].rstrip(";\n"))["run_id"]) == len(set().union(*LINES.values()))
    assert sum(path.stat().st_size for path in (tmp_path / "explorer").glob("*.js")) < 2.5e6
    picture = (tmp_path / "explorer" / "runs.svg").read_text(encoding="utf-8")
    assert "1. Learning rate and" in picture


def test_missing_bokeh_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    with pytest.raises(FlatlibError, match="install bokeh"):
        explorer.write(ROOT, tmp_path)
