"""The rows of the page of coverage: every figure and theorem of the papers, links that exist, and what cites them."""

import pandas as pd
import pytest

from flatlib.book.paths import find_root
from flatlib.claims import CLAIMS
from flatlib.claims.coverage import AFTERWARDS, ITEMS, cited, rise_over_bound
from flatlib.claims.papers import NUMBERED

PAGES = find_root() / "book" / "claims"
KEYS = [item[:2] for item in ITEMS]
PREDICTIONS = [
    (chapter, prediction)
    for chapter, claim in CLAIMS.items()
    for prediction in (*claim.predictions, *AFTERWARDS.get(chapter, ()))
]


def test_every_figure_and_theorem_has_one_row():
    assert sorted(KEYS) == sorted((paper, number) for paper, numbers in NUMBERED.items() for number in numbers)


@pytest.mark.parametrize("paper", NUMBERED)
def test_no_figure_is_skipped(paper):
    figures = [int(number.split()[1]) for number in NUMBERED[paper] if number.startswith("Figure")]
    assert figures == list(range(1, max(figures) + 1))


@pytest.mark.parametrize("page", [page for item in ITEMS for page in item.pages])
def test_links_lead_somewhere(page):
    file, _, label = page.partition("#")
    text = (PAGES / file).read_text(encoding="utf-8")
    assert not label or f"({label})=" in text


@pytest.mark.parametrize(("chapter", "prediction"), PREDICTIONS, ids=lambda part: getattr(part, "name", part))
def test_predictions_cite_known_items(chapter, prediction):
    assert cited(prediction.reported, CLAIMS[chapter].source) <= set(KEYS)


def test_a_row_without_runs_says_why():
    tested = set().union(*(cited(prediction.reported, CLAIMS[chapter].source) for chapter, prediction in PREDICTIONS))
    for item in ITEMS:
        assert (item.tested and item[:2] in tested) or item.remark, item.number


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("falls (Figure 1)", {("granziol2020", "Figure 1")}),
        ("rises (Figures 1-3)", {("granziol2020", f"Figure {n}") for n in (1, 2, 3)}),
        ("12 (Figure 1); 14 % (Figure 2)", {("granziol2020", "Figure 1"), ("granziol2020", "Figure 2")}),
        ("vanishes (MacDonald et al., Figure 2)", {("macdonald2023", "Figure 2")}),
        ("grows (MacDonald et al., Theorem 5.1, Figures 1 and 3)", None),
        ("a bound (Kaur et al., Appendix A.1)", {("kaur2022", "Appendix A.1")}),
        ("in words (section 5)", set()),
    ],
)
def test_citations(reported, expected):
    if expected is None:
        expected = {("macdonald2023", name) for name in ("Theorem 5.1", "Figure 1", "Figure 3")}
    assert cited(reported, "Granziol 2020, section 4; MacDonald et al. 2023, Figure 2") == expected


def test_a_source_that_is_none_of_the_papers():
    assert cited("rises (Figure 1)", "Somebody 1999") == set()


def test_rise_over_bound():
    runs = pd.DataFrame({"seed": [0, 0, 1], "gradient_norm": 2.0, "lambda_max": 80.0, "sam_sharpness": [0.1, 0.3, 0.4]})
    bound = 0.05 * 2 + 0.05**2 / 2 * 80
    assert rise_over_bound(runs).tolist() == pytest.approx([0.2 / bound, 0.4 / bound])
