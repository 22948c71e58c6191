"""How a claim is judged: predictions declared before the data, an interval over seeds, a region, a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.claims.study import Statistic
from flatlib.claims.verdict import (
    CONTRADICTED,
    INCONCLUSIVE,
    MIN_SEEDS,
    NOT_TESTED,
    SUPPORTED,
    correct_contradictions,
    one_sided_p,
)
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.stats import UNDEFINED, Interval, bootstrap_mean


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

        Everything else, such as an interval that touches a threshold, and every interval over fewer than ``MIN_SEEDS``
        seeds, is "inconclusive".
        """
        if interval.n < MIN_SEEDS:
            return INCONCLUSIVE
        if self.low < interval.low and interval.high < self.high:
            return SUPPORTED
        if interval.high < self.low or interval.low > self.high:
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


def per_seed(statistic: Statistic, runs: pd.DataFrame) -> pd.Series:
    """Return a statistic's numbers; none if the runs lack what is compared (a batch size) or read (a measure)."""
    try:
        return statistic(runs)
    except (FlatlibError, KeyError):
        return pd.Series(dtype=float)


@dataclass(frozen=True)
class Guard:
    """What must hold for a prediction to be tested at all; it predicts nothing.

    Attributes:
        name: Short and unique within the claim.
        statement: What is required, as a sentence.
        statistic: One number per seed from the table of runs, with its unit.
        rule: Where the mean of these numbers over seeds must lie; a guard needs no interval.
    """

    name: str
    statement: str
    statistic: Statistic
    rule: Rule

    def failure(self, runs: pd.DataFrame) -> str:
        """Return what is wrong in a few words, and nothing if the guard holds."""
        values = per_seed(self.statistic, runs).dropna()
        if values.empty:
            return f"{self.name}: {UNDEFINED}"
        mean = float(values.mean())
        return "" if self.rule.low < mean < self.rule.high else f"{self.name}: {mean:.3g}, must be {self.rule}"


@dataclass(frozen=True)
class Prediction:
    """One testable part of a claim.

    Attributes:
        name: Short and unique within the claim.
        statement: What the source predicts, as a sentence.
        statistic: One number per seed from the table of runs, with its unit.
        rule: Where the mean of these numbers over seeds must lie.
        reported: What the source reports, in words or numbers.
        guards: What must hold for this prediction to be tested, beside the guards of the claim.
        smallest: The smallest effect of interest, in the statistic's unit; None if an effect is not what is predicted.
            An interval wholly within plus and minus this does not support the prediction: there is no larger effect.
        comparisons: Among how many comparisons the statistic takes the most extreme, at least; the blocks that it
            chooses from are counted.
    """

    name: str
    statement: str
    statistic: Statistic
    rule: Rule
    reported: str
    guards: tuple[Guard, ...] = ()
    smallest: float | None = None
    comparisons: int = 1

    def judge(self, runs: pd.DataFrame, guards: tuple[Guard, ...] = ()) -> dict[str, Any]:
        """Return one row of a verdict table.

        Args:
            runs: A table of runs.
            guards: Those of the claim.
        """
        values = per_seed(self.statistic, runs)
        valid = values.dropna()
        interval = bootstrap_mean(valid) if len(valid) else Interval(nan, nan, nan, n=0)
        failures = [guard.failure(runs) for guard in (*guards, *self.guards) if interval.n]
        verdict, note = self.decide(interval, "; ".join(filter(None, failures)))
        comparisons = max(self.comparisons, self.statistic.compared(runs) if interval.n else 1)
        p = min(1.0, comparisons * one_sided_p(valid, self.rule.low, self.rule.high))
        texts: dict[str, Any] = {"prediction": self.name, "statement": self.statement}
        found = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "p": p}
        declared = {"unit": self.statistic.unit, "threshold": str(self.rule)}
        seeds = {"n": interval.n, "n_missing": len(values) - len(valid)}
        return texts | found | declared | seeds | {"reported": self.reported, "verdict": verdict, "note": note}

    def decide(self, interval: Interval, failures: str) -> tuple[str, str]:
        """Return the verdict and a note, given the statistic's interval and which guards fail."""
        if failures or not interval.n:
            return NOT_TESTED, failures
        verdict = self.rule.decide(interval)
        if self.smallest is None or interval.n < MIN_SEEDS or max(-interval.low, interval.high) >= self.smallest:
            return verdict, ""
        return CONTRADICTED if verdict == CONTRADICTED else INCONCLUSIVE, f"no effect larger than {self.smallest:g}"


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
        guards: What must hold for any of the predictions to be tested.
        intervention: What its runs vary to change the sharpness, in a word or two.
        experiment: From the chapter's parameters to its runs; of a claim with ``tuning``, also from the table of these
            runs to the runs at the settings that they choose.
        tuning: From the chapter's parameters to the runs that choose settings for the experiment, if any.
    """

    chapter: str
    sentence: str
    source: str
    predictions: tuple[Prediction, ...]
    guards: tuple[Guard, ...] = ()
    intervention: str = "other"
    experiment: Callable[..., list[RunConfig]] = no_runs
    tuning: Callable[[SimpleNamespace], list[RunConfig]] = no_runs

    def declared(self) -> pd.DataFrame:
        """Return the predictions as they were declared: the statement, and the region that would confirm it.

        The guards come last, under "guard: NAME".
        """
        guards = {each.name: each for each in (*self.guards, *(own for p in self.predictions for own in p.guards))}
        rows: list[tuple[str, Prediction | Guard, str]]
        rows = [(p.name, p, "" if p.smallest is None else f"{p.smallest:g}") for p in self.predictions]
        rows += [(f"guard: {name}", guard, "") for name, guard in guards.items()]
        columns = ["prediction", "statement", "measured in", "must be", "smallest effect"]
        found = [(name, it.statement, it.statistic.unit, str(it.rule), smallest) for name, it, smallest in rows]
        return pd.DataFrame(found, columns=columns)

    def verdicts(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return one row per prediction: estimate, interval, threshold, seeds, verdict after Holm's correction."""
        return correct_contradictions(pd.DataFrame([each.judge(runs, self.guards) for each in self.predictions]))
