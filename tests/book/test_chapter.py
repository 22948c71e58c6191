"""A chapter: its parameters, the runs it requests, the records it reads, how its runs ended."""

from math import nan

import pandas as pd
import pytest

from chapter_pages import CHAPTERS, PRESETS, ROOT, quick
from flatlib.book import chapter as module
from flatlib.book.chapter import Chapter
from flatlib.book.parameters import defaults
from flatlib.claims import CLAIMS
from flatlib.errors import FlatlibError
from flatlib.runs import records

NAME, TUNED = "02_linear_scaling", "07_adam_vs_sgd"
VALUES = defaults(CHAPTERS[NAME])
ROWS = [  # status, then for two estimates: value, residual, converged
    ("reached", 10.0, 0.01, True, -4.0, 0.2, False),
    ("reached", 20.0, 0.03, False, 5.0, 0.01, True),
    ("capped", 5.0, 0.001, True, nan, nan, None),
    ("diverged", nan, nan, None, nan, nan, None),
]
COLUMNS = ["status"] + [f"{name}{part}" for name in ("one", "two") for part in ("", "_residual", "_converged")]
RUNS = pd.DataFrame(ROWS, columns=COLUMNS).assign(batch_size=[50, 50, 250, 250], learning_rate=[0.1, 0.1, 0.1, 0.2])


@pytest.fixture
def glued(monkeypatch) -> dict:
    texts = {}
    monkeypatch.setattr(module, "glue_texts", lambda **more: texts.update(more))
    return texts


def exclusions(runs: pd.DataFrame, *estimates) -> pd.DataFrame:
    return Chapter(CLAIMS[NAME], VALUES).report_exclusions(runs, ["batch_size", "learning_rate"], *estimates)


@pytest.mark.parametrize(
    ("runs", "estimates", "unconverged", "worst"),
    [
        (RUNS, [["one"]], 1, "1.5e-03"),
        (RUNS, [["two"]], 1, "5.0e-02"),
        (RUNS, [["one", "two"]], 2, "5.0e-02"),
        (RUNS, [], 0, "none"),  # lambda_max by default, a column that is missing
        (RUNS.rename(columns=lambda name: name.replace("two", "lambda_max")), [], 1, "5.0e-02"),
    ],
)
def test_every_run_and_estimate_is_counted(glued, runs, estimates, unconverged, worst):
    exclusions(runs, *estimates)
    counts = {"n_runs": 4, "n_reached": 2, "n_capped": 1, "n_diverged": 1}
    assert glued == counts | {"n_unconverged": unconverged, "worst_residual": worst}


def test_settings_are_listed_with_their_endings(glued):
    rows = [[50, 0.1, 2, 0, 0, "yes"], [250, 0.1, 0, 1, 0, "no"], [250, 0.2, 0, 0, 1, "no"]]
    assert exclusions(RUNS, ["one"]).to_numpy().tolist() == rows
    assert exclusions(RUNS[RUNS["status"] == "reached"], ["one"]).to_numpy().tolist() == [["all 1", 2, 0, 0]]
    assert [glued[f"n_{name}"] for name in ("runs", "reached", "capped", "diverged")] == [2, 2, 0, 0]


def test_own_variables_are_no_parameters():
    assert vars(Chapter(CLAIMS[NAME], VALUES | {"configs": [], "data": "x"}).parameters) == VALUES


WITHOUT_SEEDS = {name: value for name, value in VALUES.items() if name != "seeds"}
PAPERMILL = {"In": ["", "import os", "# Parameters\nsedes = [1]\n"], "sedes": [1]}
REFUSED = {
    "by papermill": (VALUES | PAPERMILL, r"unknown parameter 'sedes'; allowed: .*seeds"),
    "by the cell": (WITHOUT_SEEDS | {"sedes": [1]}, "without a value: seeds"),
    "published": (VALUES | {"records": str(ROOT / "book" / "records")}, "only flatlib refresh"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_parameters_are_refused(values, message):
    with pytest.raises(FlatlibError, match=message):
        Chapter(CLAIMS[NAME], values)


COMMITTED = [path for path in (ROOT / "book" / "records").glob("[0-9]*/*.jsonl") if (PRESETS / path.stem).is_dir()]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_committed_records_have_the_requested_runs(path):
    chapter = Chapter.at_preset(path.parent.name, path.stem)
    assert {config.run_id for config in chapter.requests()} == set(records.read(path))
    assert chapter.chosen_later() == []


def test_recorded_tuning_runs_choose(tmp_path, line):
    chapter = quick(TUNED, records=str(tmp_path), sgd_rates=[0.03, 0.1])
    for number, config in enumerate(reversed(trials := chapter.requests())):
        records.append(chapter.record, line(config, validation_accuracy=number / 100))
    assert chapter.chosen_later() == []
    assert chapter.requests()[: len(trials)] == trials
    sgd = [c for c in chapter.requests()[len(trials) :] if c.optimizer == "heavy_ball" and c.stop == "epochs"]
    assert {config.learning_rate for config in sgd} == {0.03}, "the best of the recorded runs"


def test_without_tuning_every_rate_is_trained():
    chapter = quick(TUNED, tuning_seeds=[], sgd_rates=[0.03, 0.1])
    assert len(chapter.requests()) == (2 + 2 * 1 + 6) * 2
