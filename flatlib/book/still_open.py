"""Which predictions no scale has decided, and why: from the records, for the overview."""

import pandas as pd

from flatlib.book import results
from flatlib.book.overview import Tables, link
from flatlib.claims import CLAIMS
from flatlib.claims.power import MOST, nearest_threshold, seeds_to_decide
from flatlib.claims.prediction import Prediction, per_seed
from flatlib.claims.verdict import INCONCLUSIVE, MIN_SEEDS, NOT_CORRECTED, NOT_TESTED
from flatlib.stats import Interval

FEW, SMALL = f"There are fewer than {MIN_SEEDS} seeds", "There is no effect as large as the smallest of interest"
STRADDLES, HOLM = "The interval contains a threshold", "It points the other way, but not after Holm's correction"
GUARD, LACKS = "A guard failed", "The runs lack what it compares"
KINDS = (STRADDLES, SMALL, HOLM, FEW, GUARD, LACKS)


def still_open(judged: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the predictions that are inconclusive or not tested at every scale where they were tried.

    Args:
        judged: The table of `flatlib.book.overview.verdicts`.
        tables: The tables of runs that it judges.

    Returns:
        One row per prediction, with columns chapter, prediction, scale (the largest with enough seeds), kind (of
        `KINDS`, the reason there), seeds (that would decide it there, if any number up to `MOST` does), why (the reason
        with its numbers) and tried (all scales).
    """
    rows = []
    for (chapter, name), tried in judged.groupby(["chapter", "prediction"], sort=False):
        if not tried["verdict"].isin([INCONCLUSIVE, NOT_TESTED]).all():
            continue
        scale = results.best_scale(tried)
        row = tried[tried["scale"] == scale].iloc[0]
        (prediction,) = (each for each in CLAIMS[str(chapter)].predictions if each.name == name)
        more = seeds(prediction, tables[chapter, scale]) if kind(row) == STRADDLES else None
        scales = results.sorted_scales(tried["scale"])
        alone = "" if len(scales) > 1 else "; one scale only"
        rows.append((chapter, name, scale, kind(row), more, f"{detail(row, more)}{alone}", ", ".join(scales)))
    return pd.DataFrame(rows, columns=["chapter", "prediction", "scale", "kind", "seeds", "why", "tried"])


def kind(row: "pd.Series") -> str:
    """Return the reason why the verdict of one row of a table of verdicts is open, one of `KINDS`."""
    if row["verdict"] == NOT_TESTED:
        return GUARD if row["note"] else LACKS
    if row["n"] < MIN_SEEDS:
        return FEW
    return {"": STRADDLES, NOT_CORRECTED: HOLM}.get(row["note"], SMALL)


def detail(row: "pd.Series", more: int | None) -> str:
    """Return a reason with its numbers, in a phrase.

    Args:
        row: A row of a table of verdicts.
        more: The number of seeds that would decide it, if an interval contains a threshold.
    """
    why = kind(row)
    if why in (GUARD, LACKS):
        return f"guard failed: {row['note']}" if row["note"] else "the runs lack what it compares"
    measured = f"{Interval(row['estimate'], row['low'], row['high'], row['n'])}, must be {row['threshold']}"
    plan = f"about {more} seeds would decide it" if more else f"more than {MOST} seeds would be needed"
    return f"{measured}; {({STRADDLES: plan, FEW: 'too few seeds'}).get(why, row['note'])}"


def seeds(prediction: Prediction, runs: pd.DataFrame) -> int | None:
    """Return how many seeds would decide a prediction, if their mean and their scatter stay as they are."""
    values = per_seed(prediction.statistic, runs).dropna()
    mean, sd = float(values.mean()), float(values.std())
    return seeds_to_decide(mean, sd, nearest_threshold(prediction.rule, mean), max(MIN_SEEDS, len(values) + 1))


def reasons(found: pd.DataFrame) -> str:
    """Return the predictions of a table of `still_open` under their reasons, as a list in MyST Markdown."""
    items = []
    for why in KINDS:
        own = found[found["kind"] == why]
        names = "; ".join(
            f"{link(str(chapter))}: {', '.join(of['prediction'])}" for chapter, of in own.groupby("chapter")
        )
        items += [f"- **{why}** ({len(own)}). {names}."] * bool(len(own))
    return "\n".join(items)
