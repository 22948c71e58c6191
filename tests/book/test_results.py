"""Results in words: they follow the table of verdicts, and name predictions that exist."""

import re
from dataclasses import replace
from math import inf, nan

import pandas as pd
import pytest

from flatlib.book import answer, exercise, results
from flatlib.book.chapter import Chapter
from flatlib.book.parameters import defaults
from flatlib.book.paths import find_root, notebooks
from flatlib.claims import CLAIMS
from flatlib.stats import Interval

ROWS = [  # scale, prediction, estimate, low, high, seeds, verdict
    ("digits", "accuracy", 1.26, 0.5, 2.0, 5, "supported"),
    ("small", "accuracy", -0.04, -1.0, 0.9, 5, "inconclusive"),
    ("medium", "accuracy", -1.0, -2.0, -0.5, 5, "contradicted"),
    ("paper", "accuracy", -1.0, -inf, inf, 1, "inconclusive"),
]
VERDICTS = pd.DataFrame(ROWS, columns=["scale", "prediction", "estimate", "low", "high", "n", "verdict"])
VERDICTS = VERDICTS.assign(statement="It generalizes better.", unit="points of test accuracy")
TAU = Interval(-0.1, -0.2, -0.05, n=5)


def at(scale: str) -> pd.DataFrame:
    return VERDICTS[VERDICTS["scale"] == scale]


@pytest.mark.parametrize("chapter", CLAIMS)
def test_headlines_name_predictions(chapter):
    names = {each.name for each in CLAIMS[chapter].predictions}
    told = re.findall(r"\{([^{}:]+):(\w+)\}", results.HEADLINES[chapter])
    assert {name for name, _ in told} <= names
    assert {form for _, form in told} <= {*results.WORDS, "points", "number", "factor"}


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("digits", "it rose (+1.3 [0.5, 2.0] points)"),
        ("small", "it did not clearly change (0.0 [−1.0, 0.9] points)"),
        ("medium", "it fell (−1.0 [−2.0, −0.5] points)"),
        ("paper", "it did not clearly change (−1.0 [−inf, inf] points)"),
    ],
)
def test_words_follow_the_interval(scale, said):
    found = results.tell("it {accuracy:move} ({accuracy:points})", at(scale))
    assert found.replace("+0.0", "0.0") == said


def test_what_was_not_measured_is_said():
    missing = at("small").assign(estimate=nan, low=nan, high=nan, n=0)
    assert results.tell("{accuracy:move}, {accuracy:factor}", missing) == "was not measured, not measured"


def test_a_factor_undoes_doublings():
    row = pd.Series({"estimate": 3.0, "low": 2.0, "high": 4.0, "n": 5})
    assert f"{results.Told(row):factor}" == f"{results.Told(-row.replace(5, -5)):factor}" == "8"


def test_the_best_scale_is_the_largest_with_enough_seeds():
    assert results.best_scale(VERDICTS) == "medium", "one seed is no result"
    assert results.best_scale(at("paper")) == "paper"
    assert re.findall(r"\[(\w+), (\d of \d)\]", results.strip(VERDICTS)) == [
        *(("paper", "0 of 1"), ("medium", "0 of 1"), ("small", "0 of 1"), ("digits", "1 of 1")),
    ]


@pytest.mark.parametrize("chapter", CLAIMS)
def test_predictions_in_points_are_about_generalization(chapter):
    for each in CLAIMS[chapter].predictions:
        kind = results.kind({"statement": each.statement, "unit": each.statistic.unit})
        assert (kind == results.KINDS[1]) >= each.statistic.unit.startswith("points"), each.name
        assert kind == results.KINDS[0] or "λ_max falls" not in each.statement, each.name


@pytest.mark.parametrize(
    ("tau", "lead"),
    [
        (TAU, "Only a little: the flatter of two networks is the more accurate one 55 times in a hundred (52 to 60)."),
        (replace(TAU, estimate=-0.6, low=-0.8, high=-0.5), "Yes: the flatter of two"),
        (replace(TAU, high=0.1), "Not that we can see: "),
        (replace(TAU, estimate=0.4, low=0.2, high=0.6), "Rather the reverse: "),
    ],
)
def test_the_answer_follows_tau(tau, lead):
    found = answer.summary(at("digits"), tau)
    assert found.startswith(lead)
    assert found.endswith("itself, 0 of 0 predictions hold here; of what they predict about accuracy, 1 of 1.")


def test_claims_are_listed_with_their_verdicts():
    assert set(answer.IN_SHORT) == set(CLAIMS)
    marked = answer.marks(VERDICTS)
    assert marked == (
        "[? paper 0/1]{.verdict .inconclusive} [✗ medium 0/1]{.verdict .contradicted} "
        "[? small 0/1]{.verdict .inconclusive} [✓ digits 1/1]{.verdict .supported}"
    )
    first = answer.claims_in_lines(VERDICTS.assign(chapter="03_sam"), "claims/")
    assert first == f"1. [{answer.IN_SHORT['03_sam']}](claims/03_sam.ipynb) {marked}\n"


def test_interventions_are_sorted_by_what_they_do():
    rows = [("a", "small", -2, -1), ("b", "small", 1, 2), ("c", "small", -1, 1), ("d", "paper", 1, 2)]
    parts = pd.DataFrame(rows, columns=["intervention", "scale", "low", "high"]).assign(when="end", part="sharpness")
    assert [answer.moved(parts, "small", sharpness=sign) for sign in (-1, 1)] == ["a", "b"]
    assert (
        answer.moved(parts, "mine", sharpness=1) == answer.moved(parts, "small", "equal loss", sharpness=1) == "nothing"
    )
    both = pd.concat([parts, parts.assign(part="loss", low=[1, 1, 1, 1], high=[2, 2, 2, 2])])
    assert answer.moved(both, "small", sharpness=-1, loss=1) == "a"
    assert answer.moved(both, "small", sharpness=-1, loss=-1) == "nothing"
    assert answer.moved(parts, "small", sharpness=-1, loss=1) == "nothing", "a part that was not measured did not move"


def test_an_exercise_is_answered_from_records():
    """A subset of the published runs has its verdict; others have the command."""
    name = "03_sam"
    chapter = Chapter(CLAIMS[name], defaults(notebooks(find_root())[name]))
    fewer = exercise.answer(chapter, seeds=chapter.parameters.seeds[:2])
    assert fewer.startswith("Inconclusive: 0 of 5 predictions supported")
    assert "not recorded" in exercise.answer(chapter, seeds=[123456])
