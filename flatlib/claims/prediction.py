"""How a claim is judged: predictions declared before the data, an interval over seeds, a region, a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.claims.study import Statistic
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.stats import UNDEFINED, Interval, bootstrap_mean

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
MIN_SEEDS = 5  # below, a bootstrap over seeds cannot reach 95 % coverage, so there is no verdict


@dataclass(frozen=True)
class Rule:
    """Open region (low, high) in which a statistic must lie; made by :func:`above`, :func:`below`, :func:`between`.

    >>> above(0).decide(Interval(1.0, 0.5, 1.5, n=5))
    'supported'
    """

    low: float = -inf
    high: float = inf

    def decide(self, interval: Interval) -> str:
        """Return "supported" if the whole interval lies inside, "contradicted" if all of it lies on one side outside.

        Everything else, and every interval over fewer than ``MIN_SEEDS`` seeds, is "inconclusive".
        """
        if interval.n < MIN_SEEDS:
            return INCONCLUSIVE
        if self.low < interval.low and interval.high < self.high:
            return SUPPORTED
        if interval.high <= self.low or interval.low >= self.high:
            return CONTRADICTED
        return INCONCLUSIVE

    def __str__(self) -> str:
        if self.low == -inf:
            return f"< {self.high:g}"
        return f"> {self.low:g}" if self.high == inf else f"in {self.low:g} .. {self.high:g}"


def above(low: float) -> Rule:
    """Return the rule that the statistic is larger than ``low``."""
    return Rule(low=low)


def below(high: float) -> Rule:
    """Return the rule that the statistic is smaller than ``high``."""
    return Rule(high=high)


def between(low: float, high: float) -> Rule:
    """Return the rule that the statistic lies between ``low`` and ``high``."""
    return Rule(low, high)


@dataclass(frozen=True)
class Prediction:
    """One testable part of a claim.

    Attributes:
        name: Short and unique within the claim.
        statement: What the source predicts, as a sentence.
        statistic: One number per seed from the table of runs, with its unit.
        rule: Where the mean of these numbers over seeds must lie.
        reported: What the source reports, in words or numbers.
    """

    name: str
    statement: str
    statistic: Statistic
    rule: Rule
    reported: str

    def judge(self, runs: pd.DataFrame) -> dict[str, Any]:
        """Return one row of a verdict table."""
        try:
            values = self.statistic(runs)
        except (FlatlibError, KeyError):
            # The runs lack what is compared (a second batch size) or read (a measure): undefined for every seed.
            values = pd.Series(dtype=float)
        valid = values.dropna()
        interval = bootstrap_mean(valid) if len(valid) else Interval(nan, nan, nan, n=0)
        texts: dict[str, Any] = {"prediction": self.name, "statement": self.statement}
        found = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        declared = {"unit": self.statistic.unit, "threshold": str(self.rule)}
        seeds = {"n": interval.n, "n_missing": len(values) - len(valid)}
        return texts | found | declared | seeds | {"reported": self.reported, "verdict": self.rule.decide(interval)}


def no_runs(p: SimpleNamespace) -> list[RunConfig]:
    """Return no runs: the stage of an experiment that a claim does not have."""
    return []


@dataclass(frozen=True)
class Claim:
    """A chapter's claim: the conjunction of its predictions.

    Attributes:
        chapter: The notebook's name without its ending.
        sentence: The claim in one sentence.
        source: Paper and section.
        predictions: What must hold, each with its own verdict.
        intervention: What its runs vary to change the sharpness, in a word or two.
        experiment: From the chapter's parameters to its runs; of a claim with ``tuning``, also from the table of these
            runs to the runs at the settings that they choose.
        tuning: From the chapter's parameters to the runs that choose settings for the experiment, if any.
    """

    chapter: str
    sentence: str
    source: str
    predictions: tuple[Prediction, ...]
    intervention: str = "other"
    experiment: Callable[..., list[RunConfig]] = no_runs
    tuning: Callable[[SimpleNamespace], list[RunConfig]] = no_runs

    def declared(self) -> pd.DataFrame:
        """Return the predictions as they were declared: the statement, and the region that would confirm it."""
        rows = [(p.name, p.statement, p.statistic.unit, str(p.rule)) for p in self.predictions]
        return pd.DataFrame(rows, columns=["prediction", "statement", "measured in", "must be"])

    def verdicts(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return one row per prediction: estimate, interval, threshold, seeds, verdict."""
        return pd.DataFrame([prediction.judge(runs) for prediction in self.predictions])


def claim_verdict(verdicts: pd.DataFrame) -> str:
    """Judge a claim by its ``verdicts``: supported if all are, contradicted if any is, else inconclusive."""
    found = set(verdicts["verdict"])
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE


def summarize(verdicts: pd.DataFrame) -> str:
    """Return a claim's table of verdicts as a sentence: how many predictions held, and by name which did not."""
    held = verdicts["verdict"] == SUPPORTED
    parts = [f"{held.sum()} of {len(verdicts)} predictions supported"]
    for word in (CONTRADICTED, INCONCLUSIVE):
        names = verdicts.loc[verdicts["verdict"] == word, "prediction"]
        parts += [f"{word}: {', '.join(names)}"] * bool(len(names))
    return "; ".join(parts)


def format_verdicts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Format a table of verdicts for a page: a row per prediction (and scale), with rounded numbers."""
    measured = []
    for row in verdicts.itertuples():
        missing = f" ({row.n_missing} seeds missing)" if row.n_missing else ""
        measured.append(f"{Interval(row.estimate, row.low, row.high, row.n)}{missing}" if row.n else UNDEFINED)
    shown = verdicts.assign(measured=measured).rename(columns={"threshold": "must be", "reported": "the paper"})
    return shown[[*(["scale"] * ("scale" in shown)), "prediction", "measured", "must be", "the paper", "verdict"]]
