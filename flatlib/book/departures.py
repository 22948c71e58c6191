"""How far each setting lies from the rest of its experiment, in sharpness and in accuracy: what a change bought.

Experiments differ in data and network, and so in the level of both measures. Taking the experiment's mean away leaves
what its settings did, and puts all experiments into one picture.
"""

from dataclasses import fields

import numpy as np
import pandas as pd

from flatlib.book.overview import EXPERIMENT
from flatlib.claims import CLAIMS, complete_cells
from flatlib.config import RunConfig

SETTING = tuple(field.name for field in fields(RunConfig) if field.name not in ("seed", "model"))
BATCH_NORM = "_bn"  # the ending of a network's name that says it has batch norm: an intervention, not another network


def departures(runs: pd.DataFrame, x: str = "lambda_max", y: str = "test_accuracy") -> pd.DataFrame:
    """One row per setting, a mean over its seeds, less the mean over the settings of its experiment.

    An experiment is what shares chapter, scale, data and network. A setting that lost a seed to the cap or to
    divergence, or whose x is not positive, is left out, and so is an experiment with a single setting.

    Args:
        runs: of `flatlib.book.overview.all_runs`.
        x: a positive measure.
        y: a share, such as an accuracy.

    Returns:
        columns chapter, scale, intervention (what the chapter turns), x in doublings (the logarithm to base 2 of x,
        less its mean), y in points (100 times y, less its mean).
    """
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
    turned = means["chapter"].map({name: claim.intervention for name, claim in CLAIMS.items()})
    return means.assign(intervention=turned)[["chapter", "scale", "intervention", x, y]].reset_index(drop=True)
