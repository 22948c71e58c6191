"""The whole book: synthetic chapters, and the committed ones."""

from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest

from flatlib.book import overview, pooling
from flatlib.book.execute import glued
from flatlib.book.parameters import defaults
from flatlib.book.paths import find_root, notebooks
from flatlib.claims import Claim, Prediction, Rule, Statistic, Study, above, below, between, claim_verdict, summarize
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records

ROOT = find_root()
SHARPNESS = Statistic(Study(), lambda runs: runs[runs["status"] == "reached"].groupby("seed")["lambda_max"].mean(), "")


def claim_of(chapter: str, *rules: Rule) -> Claim:
    """Return a claim with one prediction for each rule, all about the mean sharpness of a seed."""
    predictions = tuple(Prediction(f"p{i}", "", SHARPNESS, rule, "") for i, rule in enumerate(rules))
    return Claim(chapter, f"Claim of {chapter} on λ_max.", "Somebody 2020, section 1", predictions)


@pytest.fixture
def book(tmp_path, line, monkeypatch):
    """Return two chapters; the gap falls with the sharpness within each, and rises from the first to the second."""
    claims = [claim_of("02_two", above(0)), claim_of("11_eleven", above(0), below(0), between(0, 1e9))]
    monkeypatch.setattr(overview, "CLAIMS", {claim.chapter: claim for claim in claims})

    def write(chapter, scale, model, base):
        configs = [RunConfig(model=model, learning_rate=rate, seed=s) for rate in (0.1, 0.2) for s in range(5)]
        lines = [
            line(config, lambda_max=base + i, generalization_gap=base - i, margin=None if i else 1.0)
            for i, config in enumerate(configs)
        ]
        lines.append(line(replace(configs[0], seed=9), status="capped", lambda_max=1e6, generalization_gap=1e6))
        lines.append(line(replace(configs[0], seed=8), status="diverged", lambda_max=None))
        records.write(tmp_path / "book" / "records" / chapter / f"{scale}.jsonl", lines)

    write("02_two", "small", "mlp", 100)
    write("11_eleven", "small", "softmax_regression", 200)
    write("11_eleven", "paper", "mlp", 100)  # the runs of the other chapter
    records.write(tmp_path / "book" / "records" / "99_no_claim" / "small.jsonl", [])
    records.append_failure(tmp_path / "book" / "records" / "02_two" / "small.jsonl", RunConfig(), "out of memory")
    return overview.read_records(tmp_path)


def test_every_scale_is_read(book):
    assert list(book) == [("02_two", "small"), ("11_eleven", "paper"), ("11_eleven", "small")]
    runs = overview.all_runs(book)
    assert runs.groupby(["chapter", "scale"]).size().tolist() == [12, 12, 12]
    assert {"train_size", "sam_batch", "status", "lambda_max"} <= set(runs)


def test_a_tally_counts_predictions(book):
    tally = overview.tally(overview.verdicts(book))
    assert tally["verdict"].tolist() == ["supported", "contradicted", "contradicted"]
    assert tally[["held", "predictions"]].to_numpy().tolist() == [[1, 1], [2, 3], [2, 3]]


def test_cards_show_claim_source_and_verdicts(book):
    one, two = overview.cards(overview.verdicts(book)).split(":::{grid-item-card} ")[1:]
    assert one.startswith("Claim of 02_two on $\\lambda_{\\max}$\n")
    assert "[supported]{.verdict} [small: 1 of 1 predictions]{.scale}" in one
    assert "[Chapter 11](11_eleven.ipynb). The claim: Somebody 2020, section 1" in two
    assert [two.count(f"[{scale}: 2 of 3 predictions]") for scale in ("paper", "small")] == [1, 1]


def test_pooled_tau_differs_from_stratified_tau(book):
    found = pooling.concordances(overview.all_runs(book), "generalization_gap").set_index("series")
    assert set(found["row"]) == {"Sharpness"}, "one margin is nothing to compare"
    assert found.index.tolist() == list(pooling.HELD)
    assert found.loc["any two runs", "estimate"] == pytest.approx((100 - 2 * 45) / 190)
    assert found.loc["same experiment", "estimate"] == -1
    assert (found["above_zero"] == "contradicted").tolist() == [False, True, True]
    counts = found[["runs", "groups", "pairs"]].to_numpy().tolist()
    assert counts == [[20, 1, 190], [20, 2, 2 * 45], [20, 4, 4 * 10]], "a run of two places counts once"


def test_measures_are_sorted_by_stratified_tau(book):
    runs = overview.all_runs(book).assign(weight_norm=lambda t: t["generalization_gap"] + 0.0)
    found = pooling.concordances(runs, "generalization_gap")
    assert found["row"].tolist() == ["Weight norm"] * 3 + ["Sharpness"] * 3
    shown = pooling.readable_taus(found)
    assert shown["Kendall's τ"].iloc[1] == "1.00 [1.00, 1.00]"
    assert shown["τ of single groups"].tolist()[:2] == ["", "1.00 to 1.00"]


def test_overview_repeats_the_chapters_verdicts():
    judged = overview.verdicts(overview.read_records(ROOT))
    for name in judged["chapter"].unique():
        path = notebooks(ROOT)[name]
        here = judged[(judged["chapter"] == name) & (judged["scale"] == defaults(path)["preset"])]
        page = nbformat.read(path, 4)
        assert (glued(page, "verdict"), glued(page, "verdict_sentence")) == (claim_verdict(here), summarize(here))


def test_every_published_run_is_included():
    tables = overview.read_records(ROOT)
    files = set((ROOT / "book" / "records").glob("[0-9]*/*.jsonl"))
    lines = [line for path in files for line in path.read_text().splitlines()]
    runs = overview.all_runs(tables)
    assert len(runs) == len(lines) == sum(map(len, tables.values()))
    assert np.isfinite(pooling.concordances(runs, "generalization_gap")["estimate"]).all()
    serious = overview.all_runs(overview.without_toys(tables))
    assert len(serious) == len(runs) - (runs["scale"] == "digits").sum() < len(runs)


def test_no_records_are_an_error(tmp_path):
    with pytest.raises(FlatlibError, match="no record of a chapter"):
        overview.read_records(tmp_path)


@pytest.mark.parametrize(("second", "counts"), [("small", (5, 2, 1, 1, 1)), ("paper", (0, 0, 0, 0, 0))])
def test_changed_verdicts_are_counted(second, counts):
    words = {"+": "supported", "-": "contradicted", "?": "inconclusive", "0": "not tested here"}
    scales = {"digits": "+?+-?0+", "small": "+-?+?+0"}  # a mark for each prediction
    rows = [("01_x", i, scale, words[mark]) for scale, marks in scales.items() for i, mark in enumerate(marks)]
    judged = pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "verdict"])
    assert overview.verdict_change(judged, "digits", second) == counts
