"""Predictions that no scale decided: which they are, and the reason that the records give."""

from math import nan

import pandas as pd
import pytest

from flatlib.book import still_open
from flatlib.claims import CLAIMS
from flatlib.claims.verdict import NOT_CORRECTED

CHAPTER, NAME = "03_sam", "accuracy (small batch)"
ROW = pd.Series({"verdict": "inconclusive", "note": "", "n": 5, "estimate": 1.0, "low": -1.0, "high": 2.0})
ROW = pd.concat([ROW, pd.Series({"threshold": "> 0"})])


def judged(*rows: tuple) -> pd.DataFrame:
    """Return a table of verdicts from pairs of a scale and what differs from `ROW`."""
    made = [ROW.to_dict() | {"chapter": CHAPTER, "prediction": NAME, "scale": scale} | more for scale, more in rows]
    return pd.DataFrame(made)


@pytest.fixture
def seeds(monkeypatch):
    """Let the numbers of each seed be given, whatever the runs."""
    monkeypatch.setattr(still_open, "per_seed", lambda statistic, runs: runs)
    return lambda *values: pd.Series(values, dtype=float)


def found(table: pd.DataFrame, values: pd.Series) -> list[dict]:
    tables = {(CHAPTER, scale): values for scale in table["scale"]}
    return still_open.still_open(table, tables).to_dict("records")


def test_a_prediction_that_one_scale_decided_is_not_open(seeds):
    assert found(judged(("small", {}), ("medium", {"verdict": "contradicted"})), seeds(0, 1)) == []


def test_the_reason_is_that_of_the_largest_scale(seeds):
    (row,) = found(judged(("digits", {"verdict": "not tested here"}), ("small", {})), seeds(-1.0, 1.0, 2.0, 1.0, 2.0))
    assert (row["scale"], row["kind"], row["tried"]) == ("small", still_open.STRADDLES, "digits, small")
    assert row["why"] == f"1.0 [-1.0, 2.0], n = 5, must be > 0; about {row['seeds']:.0f} seeds would decide it"
    (alone,) = found(judged(("small", {})), seeds(-1.0, 1.0, 0.1))
    assert alone["why"].endswith("more than 20 seeds would be needed; one scale only")


@pytest.mark.parametrize(
    ("more", "kind", "why"),
    [
        ({"verdict": "not tested here", "note": "reach: 2, must be < 1"}, still_open.GUARD, "guard failed: reach: 2"),
        ({"verdict": "not tested here", "n": 0, "estimate": nan}, still_open.LACKS, "the runs lack"),
        ({"note": "no effect larger than 0.5"}, still_open.SMALL, "1.0 [-1.0, 2.0], n = 5, must be > 0; no effect"),
        ({"note": NOT_CORRECTED}, still_open.HOLM, "1.0 [-1.0, 2.0], n = 5, must be > 0; contradicted alone"),
        ({"n": 3}, still_open.FEW, "1.0 [-1.0, 2.0], n = 3, must be > 0; too few seeds"),
    ],
)
def test_every_reason_is_told(more, kind, why, seeds):
    (row,) = found(judged(("small", more)), seeds(1.0, 2.0))
    assert row["kind"] == kind
    assert row["why"].startswith(why)
    assert row["seeds"] is None


def test_reasons_are_listed_with_links():
    rows = [(CHAPTER, NAME, still_open.GUARD), ("04_dropout", "a", still_open.GUARD), (CHAPTER, "b", still_open.SMALL)]
    text = still_open.reasons(pd.DataFrame(rows, columns=["chapter", "prediction", "kind"]))
    first, second = text.splitlines()
    assert first == f"- **{still_open.SMALL}** (1). [Chapter 3](03_sam.ipynb): b."
    assert second.endswith(f"(2). [Chapter 3](03_sam.ipynb): {NAME}; [Chapter 4](04_dropout.ipynb): a.")
    assert NAME in {each.name for each in CLAIMS[CHAPTER].predictions}
