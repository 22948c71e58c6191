"""What changes with scale: the verdicts on one claim, from a few hundred digits to a paper's own setting."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from flatlib.claims.prediction import CONTRADICTED, INCONCLUSIVE, SUPPORTED

FROM_SMALL_TO_LARGE = ("digits", "small", "mnist", "medium")
"""Scales of this book's own; a paper's settings, whose names start with ``paper``, come after them."""

DECIDED = (SUPPORTED, CONTRADICTED)


class Change(NamedTuple):
    """How many predictions, tested at both of two scales, have which pair of verdicts.

    Attributes
    ----------
    both: tested at both.
    same: the same verdict.
    decided: inconclusive at the first scale, supported or contradicted at the second.
    lost: the other way round.
    turned: supported at one and contradicted at the other.
    """

    both: int
    same: int
    decided: int
    lost: int
    turned: int


def in_order(scales: Iterable[str]) -> list[str]:
    """
    >>> in_order(["paper", "small", "mine", "digits", "paper-mlp"])
    ['digits', 'small', 'mine', 'paper', 'paper-mlp']
    """
    own = {name: i for i, name in enumerate(FROM_SMALL_TO_LARGE)}
    return sorted(set(scales), key=lambda name: (name.startswith("paper"), own.get(name, len(own)), name))


def change(judged: pd.DataFrame, first: str, second: str) -> Change:
    """What becomes of the verdicts of one scale at another.

    Args:
        judged: of `flatlib.book.overview.verdicts`.
    """
    verdicts = judged.pivot(index=["chapter", "prediction"], columns="scale", values="verdict")
    verdicts = verdicts.reindex(columns=[first, second]).dropna()
    one, other = verdicts[first], verdicts[second]
    return Change(
        both=len(verdicts),
        same=int((one == other).sum()),
        decided=int(((one == INCONCLUSIVE) & (other != INCONCLUSIVE)).sum()),
        lost=int(((one != INCONCLUSIVE) & (other == INCONCLUSIVE)).sum()),
        turned=int(((one != other) & one.isin(DECIDED) & other.isin(DECIDED)).sum()),
    )
