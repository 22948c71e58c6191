"""The whole book: every published run in one table, every claim's verdicts, and rank correlations across chapters."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from flatlib.claims import CLAIMS, above, claim_verdict, complete_cells
from flatlib.claims.concordance import stratified_kendall_tau
from flatlib.claims.prediction import INCONCLUSIVE, SUPPORTED
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.figures.axes import axis_of
from flatlib.names import MEASURES
from flatlib.runs import records

# What the runs of one experiment share:
EXPERIMENT = ("chapter", "scale", "dataset", "train_size", "test_size", "model", "width", "depth", "activation")
SETTING = tuple(field.name for field in fields(RunConfig) if field.name not in ("seed", "model"))  # what seeds share
BATCH_NORM = "_bn"  # the ending of a network's name that says it has batch norm: an intervention, not another network
OWN_SCALE = "small"  # the scale that this book was made at, and every claim was tested at
TOY_SCALE = "digits"  # judged like the others, and compared with them; its runs are excluded where measures compare
SCALES = ("digits", "small", "mnist", "medium")  # of this book, from small to large; a paper's come after them
HELD = {  # what two runs must share to be compared, from nothing to nearly everything
    "any two runs": (),
    "same experiment": EXPERIMENT,
    "same learning rate and batch size, too": (*EXPERIMENT, "learning_rate", "batch_size"),
}
NOT_A_MEASURE = ("performance", "train_loss")  # what the gaps are made of
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

    A run that two chapters request is in it twice, once for each.
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


def concordances(runs: pd.DataFrame, gap: str) -> pd.DataFrame:
    """Compute Kendall's tau of every measure and a gap, for each of `HELD`.

    A run that two chapters share counts once among all runs, and in each chapter where chapters are kept apart.

    Args:
        runs: The table of `all_runs`. Capped and diverged runs are excluded: they ended at another loss.
        gap: A column, such as ``generalization_gap`` or ``loss_gap``.

    Returns:
        One row per measure and level that leaves pairs to compare, with columns row (the measure's name), series (the
        level), above_zero (the verdict on "tau > 0", as for a prediction), and estimate, low, high, seeds, runs,
        groups, pairs, lowest, highest (see `flatlib.claims.concordance.StratifiedTau`). Measures are sorted by their
        tau within experiments, largest first.
    """
    runs = runs[runs["status"] == "reached"]
    rows = []
    for measure in (name for name in MEASURES if name in runs and name not in NOT_A_MEASURE):
        for series, held in HELD.items():
            compared = runs if held else runs.drop_duplicates("run_id")
            found = stratified_kendall_tau(compared, measure, gap, held)
            row = {"row": axis_of(measure).name, "series": series, "above_zero": above(0).decide(found.tau)}
            row |= {name: getattr(found.tau, name) for name in ("estimate", "low", "high")} | {"seeds": found.tau.n}
            rows.append(row | vars(found))
    table = pd.DataFrame(rows).drop(columns="tau")
    table = table[table["pairs"] > 0]
    within = table[table["series"] == "same experiment"].set_index("row")["estimate"]
    place = within.rank(ascending=False, method="first")
    return table.sort_values("row", key=lambda names: names.map(place), kind="stable", ignore_index=True)


def readable_taus(found: pd.DataFrame) -> pd.DataFrame:
    """Format a table of `concordances` for a page, one row per measure and level."""
    taus = [f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples()]
    single = [f"{row.lowest:.2f} to {row.highest:.2f}" if row.groups > 1 else "" for row in found.itertuples()]
    table = found.assign(**{"Kendall's τ": taus, "τ of single groups": single})
    table = table.rename(columns={"row": "measure", "series": "compared"})
    return table[["measure", "compared", "Kendall's τ", "seeds", "runs", "groups", "pairs", "τ of single groups"]]


def centred_by_experiment(runs: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each setting's mean sharpness and accuracy the mean over the settings of its experiment.

    Experiments differ in data and network, and so in the level of both measures; what remains is the effect of the
    settings. A setting is excluded if one of its seeds is capped or diverged or if its sharpness is not positive, and
    so is an experiment with a single setting.

    Args:
        runs: The table of `all_runs`.

    Returns:
        One row per setting with columns chapter, scale, intervention (of the chapter's claim), lambda_max in doublings
        (its logarithm to base 2, less the mean) and test_accuracy in points (a hundred times it, less the mean).
    """
    x, y = "lambda_max", "test_accuracy"
    known = runs.assign(model=runs["model"].str.removesuffix(BATCH_NORM))
    keys, settings = ([name for name in names if name in known] for names in (EXPERIMENT, SETTING))
    known["experiment"] = known.groupby(keys, dropna=False).ngroup()
    known["setting"] = known.groupby(["experiment", runs["model"], *settings], dropna=False).ngroup()
    known = complete_cells(known, ["setting"])
    known = known[np.isfinite(known[[x, y]].astype(float)).all(axis=1) & (known[x] > 0)]
    known = known.assign(**{x: np.log2(known[x].astype(float)), y: 100 * known[y].astype(float)})
    means = known.groupby(["experiment", "setting", "chapter", "scale"])[[x, y]].mean().reset_index()
    experiments = means.groupby("experiment")
    means[[x, y]] -= experiments[[x, y]].transform("mean")
    means = means[experiments["setting"].transform("size") > 1]
    interventions = means["chapter"].map({name: claim.intervention for name, claim in CLAIMS.items()})
    return means.assign(intervention=interventions)[["chapter", "scale", "intervention", x, y]].reset_index(drop=True)


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


def verdict_change(judged: pd.DataFrame, first: str, second: str) -> VerdictChange:
    """Compare the verdicts of a table of `verdicts` at two scales."""
    table = judged.pivot(index=["chapter", "prediction"], columns="scale", values="verdict")
    table = table.reindex(columns=[first, second]).dropna()
    changed = table[table[first] != table[second]]
    decided, lost = (int((changed[scale] == INCONCLUSIVE).sum()) for scale in (first, second))
    both, turned = len(table), len(changed) - decided - lost
    return VerdictChange(both, both - len(changed), decided, lost, turned)
