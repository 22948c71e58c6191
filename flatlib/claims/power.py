"""How many seeds would decide the predictions that are open, and how long they take."""

from contextlib import suppress
from math import sqrt

import pandas as pd
from scipy.stats import t

from flatlib.claims.prediction import Claim, Prediction, Rule, per_seed
from flatlib.claims.verdict import INCONCLUSIVE, MIN_SEEDS
from flatlib.errors import FlatlibError

MOST = 20  # seeds; an effect that needs more is too small for seeds to find
NULL = "a null within the smallest effect"
DESIGN = f"> {MOST}: a null within the smallest effect, or a question of design"


def nearest_threshold(rule: Rule, mean: float) -> float:
    """Return the threshold of a rule that is nearest to a mean."""
    return min(rule.low, rule.high, key=lambda threshold: abs(mean - threshold))


def seeds_to_decide(mean: float, sd: float, threshold: float, fewest: int = MIN_SEEDS) -> int | None:
    """Return the number of seeds from which Student's 95 % interval around this mean excludes the threshold.

    Args:
        mean: The mean over today's seeds, taken for the true one.
        sd: Their standard deviation, likewise.
        threshold: Must not be in the interval.
        fewest: The smallest number that is tried.

    Returns:
        A number of at least ``fewest``, or None if more than `MOST` are needed.

    >>> seeds_to_decide(mean=-1.27, sd=1.34, threshold=0)
    7
    """
    for n in range(fewest, MOST + 1):
        if t.ppf(0.975, n - 1) * sd / sqrt(n) < abs(mean - threshold):
            return n
    return None


def power_plan(claim: Claim, runs: pd.DataFrame, seconds: pd.Series) -> pd.DataFrame:
    """Plan seeds for the inconclusive predictions of a claim at one scale.

    Args:
        claim: The claim.
        runs: The table of its runs.
        seconds: How long each run took on one core, by run_id.

    Returns:
        One row per inconclusive prediction, with columns prediction, mean, sd, threshold, n, seeds (that would decide
        it; NaN above `MOST`), minutes (of one core, for the seeds that are missing) and remark.
    """
    verdicts = claim.verdicts(runs).set_index("prediction")
    rows = []
    for prediction in claim.predictions:
        verdict = verdicts.loc[prediction.name]
        if verdict["verdict"] != INCONCLUSIVE:
            continue
        values = per_seed(prediction.statistic, runs).dropna()
        mean, sd = float(values.mean()), float(values.std())
        threshold = nearest_threshold(prediction.rule, mean)
        needed = seeds_to_decide(mean, sd, threshold, max(MIN_SEEDS, len(values) + 1))
        missing = max((needed or MOST) - len(values), 0)
        row = {"prediction": prediction.name, "mean": mean, "sd": sd, "threshold": threshold, "n": len(values)}
        row |= {"seeds": needed, "minutes": missing * seconds_per_seed(prediction, runs, seconds) / 60}
        null = NULL if verdict["note"].startswith("no effect") else ""
        rows.append(row | {"remark": null or verdict["note"] or ("" if needed else DESIGN)})
    columns = ["prediction", "mean", "sd", "threshold", "n", "seeds", "minutes", "remark"]
    return pd.DataFrame(rows, columns=columns).astype({"seeds": float})


def seconds_per_seed(prediction: Prediction, runs: pd.DataFrame, seconds: pd.Series) -> float:
    """Return how long one more seed of the runs takes that a prediction's statistic reads."""
    with suppress(FlatlibError):  # a statistic that refuses these runs has no cheaper selection of them
        runs = prediction.statistic.study.select(runs)
    return float(seconds.reindex(runs["run_id"]).sum()) / max(runs["seed"].nunique(), 1)
