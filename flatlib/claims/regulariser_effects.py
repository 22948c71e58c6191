"""What each regulariser changes beside no regulariser: both candidates of claim 11, the loss, and the accuracy."""

import pandas as pd

from flatlib.claims.regularisers import NONE, PENALTY, REGULARISERS, named
from flatlib.claims.study import Study
from flatlib.stats import UNDEFINED, format_mean, seed_differences, seed_log2_ratios

DOUBLINGS = {  # a column of the table, and its measure
    "logits' Jacobian": "jacobian_norm_mean",
    "λ_max": "lambda_max",
    "training loss": "train_loss",
    "λ_max / training loss": "per_loss",
    "loss gap": "loss_gap",
}
POINTS = "test accuracy (points)"


def effects(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the change from no regulariser to each strength of each, as means over seeds with their intervals.

    Measures change by doublings, which add up: those of the training loss and of λ_max over it give those of λ_max.
    Test accuracy changes by points.
    """
    kept = Study(REGULARISERS.settings, prepare=named).select(runs)
    kept = kept.assign(per_loss=kept["lambda_max"] / kept["train_loss"], points=100 * kept["test_accuracy"])
    none, rows = kept["regulariser"] == NONE, []
    for name, strength in sorted(set(zip(kept["regulariser"][~none], kept["strength"][~none], strict=True))):
        chosen = (kept["regulariser"] == name) & (kept["strength"] == strength)
        row = {"regulariser": name, "strength": f"{strength:g}"}
        row |= {shown: format_mean(seed_log2_ratios(kept, of, chosen, none)) for shown, of in DOUBLINGS.items()}
        rows.append(row | {POINTS: format_mean(seed_differences(kept, "points", chosen, none))})
    return pd.DataFrame(rows, columns=["regulariser", "strength", *DOUBLINGS, POINTS])


def weakest(changed: pd.DataFrame, column: str) -> str:
    """Return what the Jacobian penalty at its weakest changes in a column of :func:`effects`."""
    rows = changed[changed["regulariser"] == PENALTY]
    return rows[column].iloc[0].rpartition(", n =")[0] if len(rows) else UNDEFINED
