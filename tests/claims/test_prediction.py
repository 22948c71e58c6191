"""Rules, and verdicts as sentences and tables."""

from math import inf, nan

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from flatlib.claims import (
    CLAIMS,
    Claim,
    Guard,
    Prediction,
    Statistic,
    Study,
    above,
    below,
    between,
    claim_verdict,
    format_verdicts,
    summarize,
)
from flatlib.claims.verdict import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_CORRECTED,
    NOT_TESTED,
    SUPPORTED,
    correct_contradictions,
    one_sided_p,
)
from flatlib.stats import Interval
from synthetic_runs import lr_runs

LR_BATCH = CLAIMS["01_lr_batch"]


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (above(0), 0.1, 1, "supported"),
        (above(0), -1, -0.1, "contradicted"),
        (above(0), -1, 0, "inconclusive"),  # a tie
        (above(0), -1, -1, "contradicted"),
        (above(0), 0, 1, "inconclusive"),
        (above(0), -0.1, 1, "inconclusive"),
        (below(0.5), 0, 0.4, "supported"),
        (below(0.5), 0.5, 0.7, "inconclusive"),
        (below(0.5), 0.51, 0.7, "contradicted"),
        (between(0.7, 1.5), 0.8, 1.4, "supported"),
        (between(0.7, 1.5), 0.2, 0.6, "contradicted"),
        (between(0.7, 1.5), 1.5, 2.0, "inconclusive"),
        (between(0.7, 1.5), 1.51, 2.0, "contradicted"),
        (between(0.7, 1.5), 0.7, 0.7, "inconclusive"),
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
    assert shown["must be"].tolist() == LR_BATCH.declared()["must be"].tolist()[:-1], "the last is a guard"
    assert shown["measured"].str.fullmatch(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\], n = 5|-?[\d.]+, all 5 seeds").all()


def runs_with(**columns) -> pd.DataFrame:
    """One run for each seed, with the values of some columns."""
    return pd.DataFrame({"seed": range(5), "status": "reached"} | columns)


def statistic_of(column: str) -> Statistic:
    return Statistic(Study(), lambda runs: runs.groupby("seed")[column].mean(), column)


FITS = Guard("fit", "The images are fitted.", statistic_of("train_accuracy"), above(0.99))
SHARP, FLAT = [1.0, 1.1, 1.2, 1.3, 1.4], [-1.0, -1.1, -1.2, -1.3, -1.4]


@pytest.mark.parametrize("values", [SHARP, FLAT])
@pytest.mark.parametrize("everywhere", [True, False])
def test_failed_guard_is_not_tested(values, everywhere):
    """Whatever the numbers say, and also over a few seeds; a guard of one prediction leaves others alone."""
    other = Prediction("other", "", statistic_of("lambda_max"), above(-9), "")
    own = Prediction("own", "", statistic_of("lambda_max"), above(0), "", guards=() if everywhere else (FITS,))
    claim = Claim("99_x", "", "", (own, other), guards=(FITS,) if everywhere else ())
    for seeds in (5, 2):
        judged = claim.verdicts(runs_with(lambda_max=values, train_accuracy=0.9)[:seeds]).set_index("prediction")
        assert judged["verdict"]["own"] == NOT_TESTED
        assert judged["note"]["own"] == "fit: 0.9, must be > 0.99"
        expected = {True: NOT_TESTED, False: SUPPORTED if seeds == 5 else INCONCLUSIVE}[everywhere]
        assert judged["verdict"]["other"] == expected
        assert claim_verdict(judged) == NOT_TESTED
    judged = claim.verdicts(runs_with(lambda_max=values, train_accuracy=1.0)).set_index("prediction")
    assert judged["verdict"]["own"] == (SUPPORTED if values is SHARP else CONTRADICTED)
    assert claim.declared()["prediction"].tolist() == ["own", "other", "guard: fit"]


def test_guard_or_prediction_without_its_column_is_not_tested():
    prediction = Prediction("x", "", statistic_of("lambda_max"), above(0), "", guards=(FITS,))
    claim = Claim("99_x", "", "", (prediction,))
    (unguarded,) = claim.verdicts(runs_with(lambda_max=SHARP)).to_dict("records")
    assert (unguarded["verdict"], unguarded["note"]) == (NOT_TESTED, "fit: undefined for every seed")
    (unmeasured,) = claim.verdicts(runs_with(train_accuracy=1.0)).to_dict("records")
    assert (unmeasured["verdict"], unmeasured["note"], unmeasured["n"]) == (NOT_TESTED, "", 0)


@pytest.mark.parametrize(
    ("values", "verdict", "null"),
    [
        ([0.1, 0.2, 0.3, 0.2, 0.1], INCONCLUSIVE, True),  # positive, and too small to matter
        ([-0.1, 0.2, 0.3, -0.2, 0.1], INCONCLUSIVE, True),
        ([-0.1, -0.2, -0.3, -0.2, -0.1], CONTRADICTED, True),
        ([0.1, 0.2, 0.3, 0.2, 1.3], SUPPORTED, False),
        ([-1.1, 0.2, 0.3, 0.2, 1.3], INCONCLUSIVE, False),
    ],
)
def test_no_effect_larger_than_the_smallest_of_interest(values, verdict, null):
    prediction = Prediction("x", "", statistic_of("gain"), above(0), "", smallest=0.5)
    claim = Claim("99_x", "", "", (prediction,))
    (judged,) = claim.verdicts(runs_with(gain=values)).to_dict("records")
    assert (judged["verdict"], judged["note"]) == (verdict, "no effect larger than 0.5" if null else "")
    (few,) = claim.verdicts(runs_with(gain=values)[:4]).to_dict("records")
    assert (few["verdict"], few["note"]) == (INCONCLUSIVE, "")
    assert claim.declared()["smallest effect"].tolist() == ["0.5"]


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ([SUPPORTED, SUPPORTED], SUPPORTED),
        ([SUPPORTED, INCONCLUSIVE], INCONCLUSIVE),
        ([SUPPORTED, INCONCLUSIVE, NOT_TESTED], NOT_TESTED),
        ([CONTRADICTED, INCONCLUSIVE, NOT_TESTED], CONTRADICTED),
    ],
)
def test_claim_is_a_conjunction(words, verdict):
    judged = pd.DataFrame({"verdict": words, "prediction": [f"p{i}" for i in range(len(words))]})
    assert claim_verdict(judged) == verdict
    assert (f"; {NOT_TESTED}: p2" in summarize(judged)) == (NOT_TESTED in words)


def test_contradictions_are_corrected_within_a_claim():
    """Simulated: claims of eight predictions, each true and at its threshold, are contradicted once in forty."""

    def contradicted(seed: int) -> bool:
        values = pd.DataFrame(np.random.default_rng(seed).normal(size=(5, 8)), columns=list("abcdefgh"))
        predictions = tuple(Prediction(name, "", statistic_of(name), above(0), "") for name in values)
        return claim_verdict(Claim("99_x", "", "", predictions).verdicts(values.assign(seed=range(5)))) == CONTRADICTED

    assert np.mean([contradicted(seed) for seed in range(400)]) < 0.04


def test_holm_rejects_step_by_step():
    """Of three, the smallest must be at most 0.025 / 3, the next one 0.025 / 2; untested ones are no comparison."""
    words = [CONTRADICTED, CONTRADICTED, SUPPORTED, NOT_TESTED]
    judged = pd.DataFrame({"verdict": words, "note": "", "p": [0.008, 0.012, 1.0, 1.0]})
    assert correct_contradictions(judged)["verdict"].tolist() == words
    lost = correct_contradictions(judged.assign(p=[0.009, 0.012, 1.0, 1.0]))
    assert lost["verdict"].tolist() == [INCONCLUSIVE, INCONCLUSIVE, SUPPORTED, NOT_TESTED]
    assert lost["note"].tolist() == [NOT_CORRECTED, NOT_CORRECTED, "", ""]


def test_p_value_is_students():
    values = pd.Series([-0.2, 0.1, -0.5, -0.9, -0.3])
    assert one_sided_p(values, 0, inf) == pytest.approx(ttest_1samp(values, 0, alternative="less").pvalue)
    assert one_sided_p(-values, -1, 0) == pytest.approx(ttest_1samp(values, 0, alternative="less").pvalue)
    assert [one_sided_p(values, low, inf) for low in (-1, -0.36)] == [1.0, 1.0]
    assert [one_sided_p(pd.Series([-1.0] * 5), low, inf) for low in (0, -1)] == [0.0, 1.0]


def test_most_extreme_of_several_is_corrected_for_their_number():
    values = [-0.2, 0.1, -0.5, -0.9, -0.3]
    p = [
        Prediction("x", "", statistic_of("gain"), above(0), "", comparisons=n).judge(runs_with(gain=values))["p"]
        for n in (1, 3, 99)
    ]
    assert p == pytest.approx([p[0], 3 * p[0], 1.0])
