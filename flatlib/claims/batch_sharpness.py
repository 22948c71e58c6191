"""Batch sharpness beside 2 / learning rate: the line of theory for SGD at every batch size.

Andreyev and Beneventano 2024 (arXiv:2412.20553): with SGD it is the curvature of a batch's loss along the batch's own
gradient that rises to 2 / learning rate and stays there, and lambda_max lies below it. No prediction of a chapter; the
region in which a number counts as near the line is that of chapter 1's prediction for the large batch.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from flatlib.claims.lr_batch import NEAR_EDGE
from flatlib.claims.prediction import per_seed
from flatlib.claims.setting_means import in_prose, setting_means
from flatlib.claims.study import Statistic, Study
from flatlib.stats import bootstrap_mean

MEASURES = {"batch_sharpness": "batch sharpness", "lambda_max": "λ_max"}
UNCLEAR = "not clearly on the line or off it"


def of_plain_sgd(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without SAM, whose steps have an edge of their own, with both sharpnesses times eta / 2.

    The columns of records that lack the measure are there all the same, and empty.
    """
    columns = {name: runs[name].astype(float) if name in runs else np.nan for name in MEASURES}
    kept = runs.assign(**columns)[runs["sam_rho"] == 0]
    return kept.assign(**{f"{name}_at_edge": kept[name] * kept["learning_rate"] / 2 for name in MEASURES})


PLAIN = Study(settings=("model", "batch_size", "learning_rate"), prepare=of_plain_sgd)


def at_edge(measure: str, batch: str) -> Statistic:
    """Return a sharpness in units of 2 / learning rate at the "small" or the "large" batch, over learning rates."""
    column = f"{measure}_at_edge"
    return Statistic(PLAIN.at(batch), lambda runs: runs.groupby("seed")[column].mean(), "times 2/η")


def edge_table(runs: pd.DataFrame, by: Iterable[str] = ("batch_size", "learning_rate")) -> pd.DataFrame:
    """Return both sharpnesses in units of 2 / learning rate: a row for each setting, means with their intervals."""
    columns = {f"{label} · η / 2": f"{name}_at_edge" for name, label in MEASURES.items()}
    return setting_means(PLAIN.select(runs).dropna(subset="batch_sharpness"), by, columns)


def edge_texts(runs: pd.DataFrame, batch: str) -> dict[str, str]:
    """Return for prose at the "small" or the "large" batch: both means with their intervals, and ``line`` in words."""
    found = {name: per_seed(at_edge(name, batch), runs) for name in MEASURES}
    texts = {name: in_prose(values) for name, values in found.items()}
    return texts | {"line": beside_line(found["batch_sharpness"])}


def beside_line(values: pd.Series) -> str:
    """Return in words where a sharpness in units of 2 / learning rate lies beside that line.

    >>> beside_line(pd.Series([0.9, 1.0, 1.1])), beside_line(pd.Series([0.2, 0.3])), beside_line(pd.Series(dtype=float))
    ('near the line', 'below the line', 'not measured')
    """
    if not values.notna().any():
        return "not measured"
    found = bootstrap_mean(values.dropna())
    inside = NEAR_EDGE.low < found.low and found.high < NEAR_EDGE.high
    far = {"below the line": found.high < NEAR_EDGE.low, "above the line": found.low > NEAR_EDGE.high}
    return next((where for where, holds in far.items() if holds), "near the line" if inside else UNCLEAR)
