"""The whole book: every published run in one table, and every claim's verdicts."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from flatlib.claims import CLAIMS, claim_verdict
from flatlib.claims.verdict import INCONCLUSIVE, NOT_TESTED, SUPPORTED
from flatlib.errors import FlatlibError
from flatlib.runs import records

OWN_SCALE = "small"  # the scale that this book was made at, and every claim was tested at
TOY_SCALE = "digits"  # judged like the others, and compared with them; its runs are excluded where measures compare
SCALES = ("digits", "small", "mnist", "medium")  # of this book, from small to large; a paper's come after them
Tables = dict[tuple[str, str], pd.DataFrame]  # by chapter and scale


def read_records(root: Path) -> Tables:
    """Read the table (`flatlib.runs.records.table`) of every committed record of a checkout.

    Raises:
        FlatlibError: There is none.
    """
    folder = root / "book" / "records"
    tables = {
        (chapter, scale): records.table(records.read(path).values())
        for chapter in sorted(CLAIMS)
        for scale, path in records.list_records(folder / chapter).items()
    }
    if not tables:
        raise FlatlibError(f"{folder}: no record of a chapter")
    return tables


def without_toys(tables: Tables) -> Tables:
    """Exclude the tables of `TOY_SCALE`: accuracies of a few hundred digits differ by less than the seeds do."""
    return {(chapter, scale): table for (chapter, scale), table in tables.items() if scale != TOY_SCALE}


def all_runs(tables: Tables) -> pd.DataFrame:
    """Join all tables into one, with the columns ``chapter`` and ``scale`` in front.

    A run that two chapters request is in it twice, once for each; see `flatlib.book.pooling.distinct_networks`.
    """
    names = dict.fromkeys(name for table in tables.values() for name in table)
    runs = joined({key: table.dropna(axis=1, how="all") for key, table in tables.items()})
    return runs.reindex(columns=["chapter", "scale", *names])


def joined(tables: Tables) -> pd.DataFrame:
    """Join tables, with their keys in columns."""
    table = pd.concat(tables, names=["chapter", "scale"]).copy()  # in one piece: spectra have hundreds of columns
    return table.reset_index(["chapter", "scale"]).reset_index(drop=True)


def verdicts(tables: Tables) -> pd.DataFrame:
    """Judge all claims at every scale that has runs: one row per chapter, scale and prediction."""
    return joined({key: CLAIMS[key[0]].verdicts(runs) for key, runs in tables.items()})


def tally(judged: pd.DataFrame) -> pd.DataFrame:
    """Count predictions: one row per claim and scale with its verdict, those supported (``held``) and all of them."""
    rows = [
        (*key, claim_verdict(claim), int((claim["verdict"] == SUPPORTED).sum()), len(claim))
        for key, claim in judged.groupby(["chapter", "scale"])
    ]
    return pd.DataFrame(rows, columns=["chapter", "scale", "verdict", "held", "predictions"])


def link(chapter: str, folder: str = "") -> str:
    """Return a link to a chapter in MyST Markdown.

    >>> link("01_lr_batch")
    '[Chapter 1](01_lr_batch.ipynb)'
    """
    return f"[Chapter {int(chapter.partition('_')[0])}]({folder}{chapter}.ipynb)"


def in_markdown(chapter: str) -> str:
    """Return the claim of a chapter as MyST Markdown, without the full stop.

    >>> in_markdown("08_progressive_sharpening")[:45]
    'Under gradient descent $\\\\lambda_{\\\\max}$ rises'
    """
    return CLAIMS[chapter].sentence.removesuffix(".").replace("λ_max", r"$\lambda_{\max}$")


def cards(judged: pd.DataFrame, folder: str = "") -> str:
    """Return a card for each claim, a grid in MyST Markdown: its sentence, its verdict at each scale, its source.

    Args:
        judged: The table of `verdicts`.
        folder: Folder of the chapters, seen from the page that shows the cards.
    """
    grid = ["::::{grid} 1 1 2 2", ":gutter: 3", ":class-container: verdict-grid", ""]
    for chapter, of_claim in tally(judged).groupby("chapter"):
        grid += [f":::{{grid-item-card}} {in_markdown(chapter)}", ":class-card: verdict-card", ""]
        for row in of_claim.sort_values("scale", key=lambda scale: scale != OWN_SCALE, kind="stable").itertuples():
            held = f"{row.scale}: {row.held} of {row.predictions} predictions"
            grid += [f"[{row.verdict}]{{.verdict}} [{held}]{{.scale}}", ""]
        grid += [f"{link(chapter, folder)}. The claim: {CLAIMS[chapter].source}", ":::", ""]
    return "\n".join([*grid, "::::"])


class VerdictChange(NamedTuple):
    """Numbers of predictions that are tested at two scales."""

    both: int  # tested at both
    same: int  # the same verdict
    decided: int  # inconclusive at the first, supported or contradicted at the second
    lost: int  # the other way round
    turned: int  # supported at one and contradicted at the other


def sorted_scales(scales: Iterable[str]) -> list[str]:
    """Sort scales from small to large, a paper's last.

    >>> sorted_scales(["paper", "small", "mine", "digits", "paper-mlp"])
    ['digits', 'small', 'mine', 'paper', 'paper-mlp']
    """
    place = {name: i for i, name in enumerate(SCALES)}
    return sorted(set(scales), key=lambda name: (name.startswith("paper"), place.get(name, len(place)), name))


def tested_at_both(judged: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the verdicts at two scales, in two columns, of the predictions that were tested at both."""
    table = judged.pivot(index=["chapter", "prediction"], columns="scale", values="verdict")
    table = table.reindex(columns=[first, second])
    return table.where(table != NOT_TESTED).dropna()


def verdict_change(judged: pd.DataFrame, first: str, second: str) -> VerdictChange:
    """Compare the verdicts of a table of `verdicts` at two scales."""
    table = tested_at_both(judged, first, second)
    changed = table[table[first] != table[second]]
    decided, lost = (int((changed[scale] == INCONCLUSIVE).sum()) for scale in (first, second))
    both, turned = len(table), len(changed) - decided - lost
    return VerdictChange(both, both - len(changed), decided, lost, turned)
