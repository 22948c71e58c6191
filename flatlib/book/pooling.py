"""All runs of the book in one comparison: does the sharper network of two generalize better?"""

from dataclasses import fields

import numpy as np
import pandas as pd

from flatlib.claims import CLAIMS, above, complete_cells
from flatlib.claims.concordance import StratifiedTau, stratified_kendall_tau
from flatlib.claims.verdict import MIN_SEEDS
from flatlib.config import MEASURES, RunConfig
from flatlib.figures.axes import AT_LOSS, axis_of

# What the runs of one experiment share:
EXPERIMENT = ("chapter", "scale", "dataset", "train_size", "test_size", "model", "width", "depth", "activation", "loss")
SEEDS = ("seed", "data_seed")  # of training, and of the images that it is on
SETTING = tuple(field.name for field in fields(RunConfig) if field.name not in (*SEEDS, "model"))  # what seeds share
BATCH_NORM = "_bn"  # the ending of a network's name that says it has batch norm: an intervention, not another network
MODES = ("train", "eval", "recalibrated")  # of batch norm; of a network that was measured in several, the first counts
CODED = "batch_softmax"  # the loss of one paper's public code, not of its text: a mistake, repeated by one chapter
HELD = {  # what two runs must share to be compared, from nothing to nearly everything
    "any two runs": (),
    "same experiment": EXPERIMENT,
    "same learning rate and batch size, too": (*EXPERIMENT, "learning_rate", "batch_size"),
}
NOT_A_MEASURE = ("performance", "train_loss")  # what the gaps are made of
AT_EQUAL_LOSS = "same experiment, at equal training loss"
NOT_A_MEASURE = ("performance", "train_loss")  # what the gaps are made of


def distinct_networks(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each trained network, without those that were trained on the loss of `CODED`.

    A run of two chapters stays in the later one; of a network that one chapter measured in several modes of batch norm,
    the first of `MODES` stays. Experiments of fewer than five seeds are excluded, as for a verdict.

    Args:
        runs: The table of `flatlib.book.overview.all_runs`.
    """
    runs = runs[runs["loss"] != CODED].drop_duplicates("run_id", keep="last")
    keys = [name for name in ("chapter", "scale", "model", *SEEDS, *SETTING) if name in runs and name != "batch_norm"]
    mode = runs["batch_norm"].map(MODES.index)
    runs = runs[mode == mode.groupby([runs[name] for name in keys], dropna=False).transform("min")]
    experiments = runs.groupby([name for name in EXPERIMENT if name in runs], dropna=False)
    return runs[experiments["seed"].transform("nunique") >= MIN_SEEDS].reset_index(drop=True)


def within_experiments(runs: pd.DataFrame, x: str, y: str) -> StratifiedTau:
    """Return Kendall's tau of two columns over pairs of distinct networks of one experiment, as they ended.

    Capped and diverged runs are excluded.
    """
    reached = distinct_networks(runs).query("status == 'reached'")
    return stratified_kendall_tau(reached, x, y, EXPERIMENT, experiment=EXPERIMENT)


def concordances(runs: pd.DataFrame, gap: str) -> pd.DataFrame:
    """Compute Kendall's tau of every measure and a gap, for each of `HELD` and `AT_EQUAL_LOSS`.

    The last level compares networks of one experiment where their training losses first fell to the same value.

    Args:
        runs: The table of `flatlib.book.overview.all_runs`, of which `distinct_networks` are compared. Capped and
            diverged runs are excluded: they ended at another loss.
        gap: A column, such as ``generalization_gap`` or ``loss_gap``.

    Returns:
        One row per measure and level that leaves pairs to compare, with columns row (the measure's name), series (the
        level), above_zero (the verdict on "tau > 0", as for a prediction), and estimate, low, high, seeds, runs,
        groups, pairs, lowest, highest (see `flatlib.claims.concordance.StratifiedTau`). Measures are sorted by their
        tau within experiments, largest first.
    """
    runs = distinct_networks(runs).query("status == 'reached'")
    levels = [(name, held, "") for name, held in HELD.items()] + [(AT_EQUAL_LOSS, EXPERIMENT, AT_LOSS)]
    rows = []
    for measure in (name for name in MEASURES if name in runs and name not in NOT_A_MEASURE):
        for series, held, when in levels:
            if not {measure + when, gap + when} <= set(runs):
                continue
            found = stratified_kendall_tau(runs, measure + when, gap + when, held, experiment=EXPERIMENT)
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
    taus = [f"{row.estimate:z.2f} [{row.low:z.2f}, {row.high:z.2f}]" for row in found.itertuples()]
    single = [f"{row.lowest:z.2f} to {row.highest:z.2f}" if row.groups > 1 else "" for row in found.itertuples()]
    table = found.assign(**{"Kendall's τ": taus, "τ of single groups": single})
    table = table.rename(columns={"row": "measure", "series": "compared"})
    return table[["measure", "compared", "Kendall's τ", "seeds", "runs", "groups", "pairs", "τ of single groups"]]


def centred_by_experiment(runs: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each setting's mean sharpness and accuracy the mean over the settings of its experiment.

    Experiments differ in data and network, and so in the level of both measures; what remains is the effect of the
    settings. A setting is excluded if one of its seeds is capped or diverged or if its sharpness is not positive, and
    so is an experiment with a single setting.

    Args:
        runs: The table of `flatlib.book.overview.all_runs`, of which `distinct_networks` are compared.

    Returns:
        One row per setting with columns chapter, scale, intervention (of the chapter's claim), lambda_max in doublings
        (its logarithm to base 2, less the mean) and test_accuracy in points (a hundred times it, less the mean).
    """
    x, y = "lambda_max", "test_accuracy"
    runs = distinct_networks(runs)
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
