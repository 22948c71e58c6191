"""How runs ended and how well they were measured, as a chapter glues it for its prose."""

from math import nan

import pandas as pd
import pytest

from flatlib.book import chapter as module
from flatlib.book.chapter import Chapter
from flatlib.book.parameters import defaults
from flatlib.book.paths import find_root, notebook

NAME = "02_linear_scaling"
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


def account(*estimates, runs: pd.DataFrame = RUNS) -> pd.DataFrame:
    here = Chapter(NAME, defaults(notebook(find_root(), NAME)))
    return here.report_exclusions(runs, ["batch_size", "learning_rate"], *estimates)


@pytest.mark.parametrize(
    ("estimates", "unconverged", "worst"),
    [
        (["one"], 1, "1.5e-03"),
        (["two"], 1, "5.0e-02"),
        (["one", "two"], 2, "5.0e-02"),
        ([], 0, "none"),
    ],
)
def test_every_run_and_every_estimate_is_accounted_for(glued, estimates, unconverged, worst):
    account(estimates)
    assert glued == {
        **{"n_runs": 4, "n_reached": 2, "n_capped": 1, "n_diverged": 1},
        **{"n_unconverged": unconverged, "worst_residual": worst},
    }


def test_lambda_max_is_the_estimate_unless_others_are_named(glued):
    account()
    assert (glued["n_unconverged"], glued["worst_residual"]) == (0, "none")  # a column that is not there
    account(runs=RUNS.rename(columns=lambda name: name.replace("two", "lambda_max")))
    assert (glued["n_unconverged"], glued["worst_residual"]) == (1, "5.0e-02")


def test_the_settings_are_listed_with_how_their_runs_ended(glued):
    assert account(["one"]).to_numpy().tolist() == [
        [50, 0.1, 2, 0, 0, "yes"],
        [250, 0.1, 0, 1, 0, "no"],
        [250, 0.2, 0, 0, 1, "no"],
    ]


def test_an_ending_that_no_run_had_is_counted_as_none(glued):
    account(["one"], runs=RUNS[RUNS["status"] == "reached"])
    assert [glued[f"n_{name}"] for name in ("runs", "reached", "capped", "diverged")] == [2, 2, 0, 0]
