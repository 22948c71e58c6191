"""Sharpness as each optimizer sees it: SGD's lambda_max, Adam's preconditioned, beside the edge of the learning rate.

The edge is (2 + 2 b) / eta for SGD with momentum b (Cohen et al. 2021, appendix B), and (2 + 2 b) / ((1 - b) eta) for
the preconditioned Hessian of Adam with b = beta1 (Cohen et al. 2022, section 2): 38 / eta for 0.9. Both are for full
batches; eta is the rate of the last epoch. An average of iterates has no state of Adam, and so no sharpness as Adam
sees it.
"""

import pandas as pd

from flatlib.claims.adam_vs_sgd import ADAM, MAIN, SGD
from flatlib.claims.setting_means import MISSING, in_prose, setting_means
from flatlib.curvature import adam_stability_threshold
from flatlib.training.optim.schedules import granziol

METHODS = {"sgd": SGD, "adam": ADAM}  # by short names; averaged weights are nobody's iterate, and have no edge
HEADINGS = {
    **{"λ_max": "lambda_max", "λ_min": "lambda_min", "λ_max as Adam sees it": "preconditioned_lambda_max"},
    **{"its edge": "edge", "over its edge": "at_edge"},
}


def with_edge(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the three methods that count, with the ``edge`` of the optimizer and the sharpness over it."""
    kept = MAIN.select(runs)
    seen = kept["lambda_max"].where(kept["optimizer"] == "heavy_ball", kept.get("preconditioned_lambda_max"))
    edge = kept.apply(edge_of, axis=1).astype(float) if len(kept) else pd.Series(dtype=float)
    return kept.assign(edge=edge, at_edge=seen.astype(float) / edge)


def edge_of(run: pd.Series) -> float:
    """Return the sharpness at which a run's optimizer is unstable, at the learning rate of its last epoch."""
    rate = run["averaging_learning_rate"]
    if pd.isna(rate):
        rate = run["learning_rate"] * granziol(1 - 1 / run["max_epochs"])
    if run["optimizer"] == "heavy_ball":
        return (2 + 2 * run["momentum"]) / rate
    return adam_stability_threshold(rate)


def adaptive_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return both ends of the spectrum and the sharpness as the optimizer sees it: a row for each method."""
    kept = with_edge(runs)
    if "preconditioned_lambda_max" not in kept or kept["preconditioned_lambda_max"].isna().all():
        return pd.DataFrame({"λ_max as Adam sees it": [MISSING]})
    return setting_means(kept, ["method"], HEADINGS, missing="")


def over_edge(runs: pd.DataFrame, method: str) -> str:
    """Return for prose the sharpness of a method over its edge."""
    kept = with_edge(runs)
    of_method = kept[kept["method"] == method]
    return in_prose(of_method.groupby("seed")["at_edge"].mean())
