"""How a claim is judged: predictions declared before the data, an interval over seeds, a threshold, a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from types import SimpleNamespace

import pandas as pd

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.stats import Interval, bootstrap_mean

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
MIN_SEEDS = 5  # below, a bootstrap over seeds cannot reach 95 % coverage, so there is no verdict


@dataclass(frozen=True)
class Rule:
    """The open region (low, high) a statistic must lie in for the prediction to hold.

    >>> Rule(low=0).decide(Interval(1.0, 0.5, 1.5, n=5, level=0.95))
    'supported'
    """

    low: float = -inf
    high: float = inf

    def decide(self, interval: Interval) -> str:
        """Supported if the whole interval lies inside, contradicted if all of it lies outside on one side."""
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


@dataclass(frozen=True)
class Prediction:
    """One testable part of a claim.

    Attributes:
        name: short and unique within the claim.
        statement: what the source says will be seen, as a sentence.
        statistic: from the table of runs to one number per seed (a Series indexed by seed; NaN where a seed has
            nothing to say, which is counted).
        unit: of that number.
        rule: where its mean over seeds must lie.
        reported: what the source reports, in words or numbers.
    """

    name: str
    statement: str
    statistic: Callable[[pd.DataFrame], pd.Series]
    unit: str
    rule: Rule
    reported: str

    def judge(self, runs: pd.DataFrame) -> dict[str, object]:
        """One row of a verdict table."""
        try:
            values = self.statistic(runs)
        except (FlatlibError, KeyError):
            # The runs lack what the statistic compares (one batch size only) or reads (all diverged, no such measure):
            # no seed has an answer, and the table says so.
            values = pd.Series(dtype=float)
        spoken = values.dropna()
        interval = bootstrap_mean(spoken.to_numpy()) if len(spoken) else Interval(nan, nan, nan, n=0, level=0.95)
        return {
            "prediction": self.name,
            "statement": self.statement,
            "estimate": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "unit": self.unit,
            "threshold": str(self.rule),
            "n": interval.n,
            "silent": len(values) - len(spoken),
            "reported": self.reported,
            "verdict": self.rule.decide(interval),
        }


def no_runs(p: SimpleNamespace) -> list[RunConfig]:
    """Return an empty list of runs."""
    return []


@dataclass(frozen=True)
class Claim:
    """A chapter's claim: the conjunction of its predictions.

    Attributes:
        chapter: the notebook's name without its ending.
        sentence: the claim in one sentence.
        source: paper and section.
        intervention: what its runs turn to change the sharpness, in a word or two.
        experiment: the chapter's parameters -> the runs that it trains; of a claim with `tuning` also the table of
            these runs -> the runs at the settings that they choose.
        tuning: the chapter's parameters -> the runs that choose settings for the experiment, or none.
    """

    chapter: str
    sentence: str
    source: str
    predictions: tuple[Prediction, ...]
    intervention: str = "other"
    experiment: Callable[..., list[RunConfig]] = no_runs
    tuning: Callable[[SimpleNamespace], list[RunConfig]] = no_runs

    def declared(self) -> pd.DataFrame:
        """The predictions as they were declared: what is said to happen, and the region that would confirm it."""
        rows = [(p.name, p.statement, p.unit, str(p.rule)) for p in self.predictions]
        return pd.DataFrame(rows, columns=["prediction", "statement", "measured in", "must be"])

    def verdicts(self, runs: pd.DataFrame) -> pd.DataFrame:
        """One row per prediction: estimate, interval, threshold, seeds, verdict."""
        return pd.DataFrame([prediction.judge(runs) for prediction in self.predictions])


def claim_verdict(verdicts: pd.DataFrame) -> str:
    """The verdict on the claim, from its table of `verdicts`: supported if every prediction is, contradicted if any is,
    else inconclusive."""
    found = set(verdicts["verdict"])
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE


def sentence(verdicts: pd.DataFrame) -> str:
    """What stands behind a claim's table of `verdicts`: how many predictions held, and by name which did not."""
    held = verdicts["verdict"] == SUPPORTED
    parts = [f"{held.sum()} of {len(verdicts)} predictions supported"]
    for word in (CONTRADICTED, INCONCLUSIVE):
        names = verdicts.loc[verdicts["verdict"] == word, "prediction"]
        parts += [f"{word}: {', '.join(names)}"] * bool(len(names))
    return "; ".join(parts)


def format_verdicts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """A table of `verdicts` for a page: a row per prediction (and scale), numbers rounded as their interval allows."""
    interval = []
    for row in verdicts.itertuples():
        found = Interval(row.estimate, row.low, row.high, row.n, level=0.95)
        silent = f" ({row.silent} without an answer)" if row.silent else ""
        interval.append(f"{found}{silent}" if row.n else "no seed has an answer")
    shown = verdicts.assign(measured=interval).rename(columns={"threshold": "must be", "reported": "the paper"})
    return shown[[*(["scale"] * ("scale" in shown)), "prediction", "measured", "must be", "the paper", "verdict"]]
