"""The book as a whole: every published run in one table, every claim's verdict, and what orders the generalization gap.

It reads the committed records of whatever chapters there are and sees tables only.
"""

from pathlib import Path

import pandas as pd

from flatlib.claims import CLAIMS, Rule, claim_verdict
from flatlib.claims.concordance import concordance
from flatlib.claims.prediction import SUPPORTED
from flatlib.config import MEASURES
from flatlib.errors import FlatlibError
from flatlib.figures.axes import axis_of
from flatlib.runs import records
from flatlib.stats import Interval

EXPERIMENT = (
    *("chapter", "scale", "dataset", "train_size", "test_size"),
    *("model", "width", "depth", "activation"),
)
OWN_SCALE = "small"  # the scale that this book was made at, and every claim was tested at
TOY_SCALE = "digits"  # judged like the others, and compared with them; its runs have no say about measures
HELD = {  # what two runs must share to be compared, from nothing to nearly everything
    "any two runs": (),
    "same experiment": EXPERIMENT,
    "same learning rate and batch size, too": (*EXPERIMENT, "learning_rate", "batch_size"),
}
NOT_A_MEASURE = ("performance", "train_loss")  # what the gaps are made of
Tables = dict[tuple[str, str], pd.DataFrame]  # by chapter and scale


def published(root: Path) -> Tables:
    """The table (`flatlib.runs.records.table`) of every committed record, by chapter and scale.

    Raises:
        FlatlibError: there is no record.
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
    """The tables but those of `TOY_SCALE`: test accuracies of a few hundred digits differ by less than the seeds do,
    and pairs of such runs would only dilute what measures say of others."""
    return {(chapter, scale): table for (chapter, scale), table in tables.items() if scale != TOY_SCALE}


def all_runs(tables: Tables) -> pd.DataFrame:
    """All tables in one, with the columns ``chapter`` and ``scale`` in front.

    A run that two chapters ask for is there twice, once for each.
    """
    names = dict.fromkeys(name for table in tables.values() for name in table)
    known = {key: table.dropna(axis=1, how="all") for key, table in tables.items()}
    runs = pd.concat(known, names=["chapter", "scale"]).copy()  # in one piece: spectra have hundreds of columns
    runs = runs.reset_index(["chapter", "scale"])
    return runs.reindex(columns=["chapter", "scale", *names]).reset_index(drop=True)


def verdicts(tables: Tables) -> pd.DataFrame:
    """The verdict tables of all claims at every scale that has runs: one row per chapter, scale and prediction."""
    judged = {key: CLAIMS[key[0]].verdicts(runs) for key, runs in tables.items()}
    return pd.concat(judged, names=["chapter", "scale"]).reset_index(["chapter", "scale"]).reset_index(drop=True)


def tally(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per claim and scale: the verdict, how many predictions are supported (``held``) and how many there are
    (``predictions``)."""
    rows = [
        {
            "chapter": chapter,
            "scale": scale,
            "verdict": claim_verdict(claim),
            "held": int((claim["verdict"] == SUPPORTED).sum()),
            "predictions": len(claim),
        }
        for (chapter, scale), claim in judged.groupby(["chapter", "scale"])
    ]
    return pd.DataFrame(rows, columns=["chapter", "scale", "verdict", "held", "predictions"])


def link(chapter: str, folder: str = "") -> str:
    """
    >>> link("01_lr_batch")
    '[Chapter 1](01_lr_batch.ipynb)'
    """
    return f"[Chapter {int(chapter.partition('_')[0])}]({folder}{chapter}.ipynb)"


def in_markdown(chapter: str) -> str:
    """The claim of a chapter as MyST Markdown, without the full stop.

    >>> in_markdown("08_progressive_sharpening")[:45]
    'Under gradient descent $\\\\lambda_{\\\\max}$ rises'
    """
    return CLAIMS[chapter].sentence.removesuffix(".").replace("λ_max", r"$\lambda_{\max}$")


def cards(judged: pd.DataFrame, folder: str = "") -> str:
    """A grid of cards in MyST Markdown, one for each claim: its sentence, its verdict at each scale (the
    book's own first), its source.

    folder: where the chapters are, seen from the page that shows the cards.
    """
    grid = ["::::{grid} 1 1 2 2", ":gutter: 3", ":class-container: verdict-grid", ""]
    for chapter, of_claim in tally(judged).groupby("chapter"):
        grid += [f":::{{grid-item-card}} {in_markdown(chapter)}", ":class-card: verdict-card", ""]
        for row in of_claim.sort_values("scale", key=lambda scale: scale != OWN_SCALE, kind="stable").itertuples():
            held = f"{row.scale}: {row.held} of {row.predictions} predictions"
            grid += [f"[{row.verdict}]{{.verdict}} [{held}]{{.scale}}", ""]
        grid += [f"{link(chapter, folder)}. The claim: {CLAIMS[chapter].source}", ":::", ""]
    return "\n".join([*grid, "::::"])


def concordances(runs: pd.DataFrame, gap: str) -> pd.DataFrame:
    """Kendall's tau of every measure and a gap, for each of `HELD`.

    A run that two chapters share counts once among all runs, and in each chapter where chapters are kept apart.

    Args:
        runs: of `all_runs`. Those that are capped or diverged are left out: they stopped somewhere else.
        gap: a column, such as ``generalization_gap`` or ``loss_gap``.

    Returns:
        One row per measure and level, with columns row (the measure's name), series (the level), estimate, low, high,
        seeds, runs, groups, pairs, lowest, highest (see `flatlib.claims.concordance.Concordance`), above_zero (the
        verdict on "tau > 0", as for a prediction). Measures are sorted by their tau within experiments, largest
        first; what leaves no pair to compare is not there.
    """
    runs = runs[runs["status"] == "reached"]
    measures = [name for name in MEASURES if name in runs and name not in NOT_A_MEASURE]
    rows = []
    for measure in measures:
        for series, held in HELD.items():
            found = concordance(runs if held else runs.drop_duplicates("run_id"), measure, gap, held)
            tau = found.tau
            rows.append(
                {
                    **{"row": axis_of(measure).name, "series": series},
                    **{"estimate": tau.estimate, "low": tau.low, "high": tau.high, "seeds": tau.n},
                    **{"runs": found.runs, "groups": found.groups, "pairs": found.pairs},
                    **{"lowest": found.lowest, "highest": found.highest, "above_zero": Rule(low=0).decide(tau)},
                }
            )
    table = pd.DataFrame(rows)
    table = table[table["pairs"] > 0]
    within = table[table["series"] == "same experiment"].set_index("row")["estimate"]
    place = table["row"].map(within.rank(ascending=False, method="first"))
    return table.assign(place=place).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def readable_taus(found: pd.DataFrame) -> pd.DataFrame:
    """A table of `concordances` for a page, one row per measure and level."""
    taus = [Interval(row.estimate, row.low, row.high, row.seeds, level=0.95) for row in found.itertuples()]
    single = [
        f"{row.lowest:.2f} to {row.highest:.2f}" if row.groups > 1 else ""
        for row in found[["lowest", "highest", "groups"]].itertuples()
    ]
    return pd.DataFrame(
        {
            "measure": found["row"],
            "compared": found["series"],
            "Kendall's τ": [f"{tau.estimate:.2f} [{tau.low:.2f}, {tau.high:.2f}]" for tau in taus],
            "seeds": found["seeds"],
            "runs": found["runs"],
            "groups": found["groups"],
            "pairs": found["pairs"],
            "τ of single groups": single,
        }
    )
