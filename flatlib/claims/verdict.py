"""The words that judge predictions and claims, Holm's correction within a claim, and verdicts as sentences and tables.

A claim is supported if all its predictions are, so that support needs no correction for their number: it errs no more
often than its weakest prediction. One contradicted prediction contradicts a claim, and of many one may be contradicted
by chance: contradictions are corrected.
"""

import numpy as np
import pandas as pd
from scipy.stats import t

from flatlib.stats import UNDEFINED, Interval

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTED = "supported", "contradicted", "inconclusive", "not tested here"
MIN_SEEDS = 5  # below, a bootstrap over seeds cannot reach 95 % coverage, so there is no verdict
ERROR_RATE = 0.025  # one-sided, of calling a true claim contradicted: what a 95 % interval has on each side
NOT_CORRECTED = "contradicted alone, not after Holm's correction"


def one_sided_p(values: pd.Series, low: float, high: float) -> float:
    """Return the p-value of Student's t test of a mean inside (low, high), against one beyond the nearer threshold.

    It is 1 where the mean lies inside, and 0 if all values are equal and outside.
    """
    n, mean = len(values), float(values.mean()) if len(values) else np.nan
    beyond = max(low - mean, mean - high)
    if n < 2 or not beyond > 0:
        return 1.0
    error = float(values.std()) / np.sqrt(n)
    return float(t.sf(beyond / error, n - 1)) if error > 0 else 0.0


def correct_contradictions(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a claim's table of verdicts with the contradictions that do not survive Holm's correction inconclusive.

    The family are the claim's predictions that were tested. With their one-sided p-values in ascending order, the i-th
    of m is rejected if those before it are and it is at most ``ERROR_RATE`` / (m - i + 1). So at most one true claim in
    forty is contradicted, however many predictions it has, as far as Student's test is exact.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    tested = verdicts[verdicts["verdict"] != NOT_TESTED].sort_values("p", kind="stable")
    limits = ERROR_RATE / np.arange(len(tested), 0, -1)
    rejected = tested.index[(tested["p"] <= limits).cummin()]
    lost = (verdicts["verdict"] == CONTRADICTED) & ~verdicts.index.isin(rejected)
    words, notes = verdicts["verdict"].mask(lost, INCONCLUSIVE), verdicts["note"].mask(lost, NOT_CORRECTED)
    return verdicts.assign(verdict=words, note=notes)


def claim_verdict(verdicts: pd.DataFrame) -> str:
    """Judge a claim by its ``verdicts``.

    It is contradicted if any prediction is, else not tested here if any prediction was not (no number of seeds would
    support it), else supported if all are, else inconclusive.
    """
    found = set(verdicts["verdict"])
    for word in (CONTRADICTED, NOT_TESTED):
        if word in found:
            return word
    return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE


def summarize(verdicts: pd.DataFrame) -> str:
    """Return a claim's table of verdicts as a sentence: how many predictions held, and by name which did not."""
    held = verdicts["verdict"] == SUPPORTED
    parts = [f"{held.sum()} of {len(verdicts)} predictions supported"]
    for word in (CONTRADICTED, INCONCLUSIVE, NOT_TESTED):
        names = verdicts.loc[verdicts["verdict"] == word, "prediction"]
        parts += [f"{word}: {', '.join(names)}"] * bool(len(names))
    return "; ".join(parts)


def format_verdicts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Format a table of verdicts for a page: a row per prediction (and scale), with rounded numbers and notes."""
    measured = []
    for row in verdicts.itertuples():
        missing = f" ({row.n_missing} seeds missing)" if row.n_missing else ""
        number = f"{Interval(row.estimate, row.low, row.high, row.n)}{missing}" if row.n else UNDEFINED
        measured.append(f"{number}; {row.note}" if row.note else number)
    shown = verdicts.assign(measured=measured).rename(columns={"threshold": "must be", "reported": "the paper"})
    return shown[[*(["scale"] * ("scale" in shown)), "prediction", "measured", "must be", "the paper", "verdict"]]
