"""The Explorer's data: every committed run once, as it is recorded; its axes; its files."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from flatlib.book import overview
from flatlib.book.explorer import columns, files
from flatlib.book.explorer.axes import SETTINGS, label
from flatlib.book.explorer.runs import named
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
    titles = {chapter: files.title(path) for chapter, path in notebooks(ROOT).items()}
    return json.loads(json.dumps(columns(overview.published(ROOT), titles), allow_nan=False))


def test_every_committed_run_is_there_once(data):
    assert len(set(data["run_id"])) == len(data["run_id"])
    assert set(data["run_id"]) == {run_id for lines in LINES.values() for run_id in lines}
    assert [tuple(place) for place in data["places"]] == sorted(LINES)


def test_every_run_is_in_the_places_that_record_it(data):
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


def test_every_measure_of_the_record_that_has_an_axis_is_offered(data):
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


def test_a_run_of_two_chapters_is_one_run_in_two_places(tables):
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


def test_the_largest_value_along_training_is_a_measure_of_its_own(tables):
    found = columns(tables, {"01_one": "1. One", "02_two": "2. Two"})
    assert found["measures"]["peak_lambda_max"] == [None] * 5 + [7.0]
    assert found["measures"]["lambda_max"] == [1.0] * 5 + [None]
    assert "peak_update" not in found["measures"]


def test_a_value_without_a_number_has_a_word():
    assert [named("train_size", None), named("max_updates", None), named("augmentation", "")] == ["all", "none", "none"]
    assert [named("batch_size", 0), named("sam_rho", 0.0)] == ["all images", "0"]


def test_a_chapter_is_named_by_its_number_and_its_heading():
    assert files.title(notebooks(ROOT)["01_lr_batch"]) == "1. Learning rate and batch size"


def test_the_files_are_written_beside_the_scripts(tmp_path, monkeypatch):
    folder = tmp_path / "_static" / "explorer"
    folder.mkdir(parents=True)
    monkeypatch.setattr(files, "draw", lambda runs, path: path.write_text(", ".join(runs["chapter"].unique())))
    files.write(ROOT, tmp_path)
    script = (folder / "runs.js").read_text(encoding="utf-8")
    assert script.startswith("window.flatlibRuns = {")
    assert len(json.loads(script.partition(" = ")[2].rstrip(";\n"))["run_id"]) == len(set().union(*LINES.values()))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2.5e6
    assert (folder / "runs.svg").read_text().startswith("1. Learning rate and batch size, 2. Linear scaling")


@pytest.mark.parametrize("found", [None, "elsewhere"])
def test_without_bokeh_it_says_so(monkeypatch, tmp_path, found):
    class Installed:
        def locate_file(self, name):
            return tmp_path / name

    def distribution(name):
        if found is None:
            raise PackageNotFoundError(name)
        return Installed()

    monkeypatch.setattr(files, "distribution", distribution)
    with pytest.raises(FlatlibError, match="install bokeh"):
        files.bokeh_script("bokeh.min.js")
