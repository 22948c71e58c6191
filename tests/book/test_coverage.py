"""Verdicts on figures and theorems: collected from the predictions that cite them, and none by hand."""

import pandas as pd
import pytest

from flatlib.book import coverage, overview
from flatlib.book.paths import find_root
from flatlib.claims import CLAIMS, claim_verdict
from flatlib.claims.coverage import ITEMS


@pytest.fixture(scope="module")
def tables():
    return overview.read_records(find_root())


@pytest.fixture(scope="module")
def found(tables):
    return coverage.verdicts(tables)


def of(found: pd.DataFrame, paper: str, number: str, scale: str) -> pd.DataFrame:
    return found[(found["paper"] == paper) & (found["number"] == number) & (found["scale"] == scale)]


def test_a_verdict_is_that_of_its_predictions(tables, found):
    key = ("10_minimum_sharpness", "small")
    judged = CLAIMS[key[0]].verdicts(tables[key])
    figure = judged[judged["reported"].str.contains("Figure 2")]
    (row,) = of(found, "bejan2022", "Figure 2", "small").itertuples()
    assert row.verdict == claim_verdict(figure)
    assert (row.predictions, row.held) == (len(figure), (figure["verdict"] == "supported").sum())


def test_a_verdict_follows_the_runs(tables):
    """Minimum sharpness turned upside down: SAM raises it, and Figure 2 is contradicted."""
    key = ("10_minimum_sharpness", "small")
    runs = tables[key]
    turned = coverage.verdicts({key: runs.assign(minimum_sharpness=1 / runs["minimum_sharpness"])})
    assert of(turned, "bejan2022", "Figure 2", "small")["verdict"].tolist() == ["contradicted"]


def test_what_is_not_tested_has_no_verdict(found):
    judged = set(zip(found["paper"], found["number"], strict=True))
    assert not judged & {item[:2] for item in ITEMS if not item.tested}
    assert not {"paper-mlp"} & set(of(found, "granziol2020", "Figure 1", "paper-mlp")["scale"])
    assert len(of(found, "granziol2020", "Figure 2", "paper-mlp"))


def test_findings_made_afterwards_are_kept_apart(found):
    later = found[found["kind"] == coverage.LATER]
    assert set(later["chapter"]) == set(coverage.AFTERWARDS)
    assert ("granziol2020", "Figure 7", "small") in set(
        later[["paper", "number", "scale"]].itertuples(index=False, name=None)
    )
    shown = coverage.declared(found)
    assert "Appendix A.1" not in set(shown["prediction"])


@pytest.mark.parametrize("paper", dict.fromkeys(item.paper for item in ITEMS))
def test_tables_have_a_line_for_each_item(found, paper):
    lines = coverage.table(found, paper).splitlines()[2:]
    assert [line.split(" | ")[0].lstrip("| ") for line in lines] == [
        item.number for item in ITEMS if item.paper == paper
    ]
    assert all(line.count(" | ") == 4 for line in lines)


def test_the_committed_page_shows_these_verdicts(found):
    text = (find_root() / "book" / "claims" / "coverage.ipynb").read_text(encoding="utf-8")
    for paper in dict.fromkeys(item.paper for item in ITEMS):
        assert all(coverage.agreement(group) in text for _, group in found[found["paper"] == paper].groupby("number"))
