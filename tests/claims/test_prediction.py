"""Rules, and verdicts as sentences and tables."""

from math import inf, nan

import pytest
from synthetic_runs import lr_runs

from flatlib.claims import CLAIMS, above, below, between, claim_verdict, format_verdicts, summarize
from flatlib.stats import Interval

LR_BATCH = CLAIMS["01_lr_batch"]


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (above(0), 0.1, 1, "supported"),
        (above(0), -1, -0.1, "contradicted"),
        (above(0), -1, 0, "contradicted"),
        (above(0), 0, 1, "inconclusive"),
        (above(0), -0.1, 1, "inconclusive"),
        (below(0.5), 0, 0.4, "supported"),
        (below(0.5), 0.5, 0.7, "contradicted"),
        (between(0.7, 1.5), 0.8, 1.4, "supported"),
        (between(0.7, 1.5), 0.2, 0.6, "contradicted"),
        (between(0.7, 1.5), 1.5, 2.0, "contradicted"),
        (between(0.7, 1.5), 0.5, 2.0, "inconclusive"),
        (above(0), -inf, inf, "inconclusive"),
        (above(0), nan, nan, "inconclusive"),
    ],
)
def test_rule_decides_by_whole_interval(rule, low, high, verdict):
    assert rule.decide(Interval((low + high) / 2, low, high, n=5)) == verdict
    assert {rule.decide(Interval((low + high) / 2, low, high, n=n)) for n in (0, 1, 4)} == {"inconclusive"}


def test_four_seeds_decide_no_claim():
    assert set(LR_BATCH.verdicts(lr_runs(True, seeds=range(4)))["verdict"]) == {"inconclusive"}


def test_summary_names_failed_predictions():
    verdicts = LR_BATCH.verdicts(lr_runs(True))
    assert summarize(verdicts) == "7 of 7 predictions supported"
    verdicts.loc[0, "verdict"], verdicts.loc[1, "verdict"] = "contradicted", "inconclusive"
    assert (claim_verdict(verdicts), claim_verdict(verdicts[1:])) == ("contradicted", "inconclusive")
    first, second = verdicts["prediction"][:2]
    assert summarize(verdicts) == f"5 of 7 predictions supported; contradicted: {first}; inconclusive: {second}"


def test_formatted_verdicts_are_rounded():
    shown = format_verdicts(LR_BATCH.verdicts(lr_runs(True)).assign(scale="smoke"))
    assert list(shown) == ["scale", "prediction", "measured", "must be", "the paper", "verdict"]
    assert shown["must be"].tolist() == LR_BATCH.declared()["must be"].tolist()
    assert shown["measured"].str.fullmatch(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\], n = 5").all()
