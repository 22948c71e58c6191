"""Claim 3: SAM lowers lambda_max at every batch size, and helps only at a small one.

Kaur, Cohen, Lipton 2022, section 3.3. "Small" and "large" are the smallest and the largest batch among the runs; rho
is SAM's radius, 0 is plain SGD. Only runs at the same learning rate are compared.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.setting_means import in_prose, setting_means
from flatlib.claims.settings import OTHER_SHARPNESS, kaur2022_config, with_matched_loss
from flatlib.claims.study import Study, complete_cells
from flatlib.config import RunConfig, grid
from flatlib.stats import require_columns

SAM = Study(settings=("batch_size", "learning_rate", "sam_rho"), blocks=("learning_rate",))
SMALL, LARGE = SAM.at("small"), SAM.at("large")
IN_BOUND = ("gradient_norm", "lambda_max", "sam_sharpness")
GAIN = ("test_accuracy", "sam_rho > 0", "sam_rho == 0")


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: batch size x learning rate x SAM's radius x seed, otherwise plain SGD to 99 % accuracy."""
    base = kaur2022_config(p, *OTHER_SHARPNESS)
    runs = grid(base, batch_size=p.batch_sizes, learning_rate=p.learning_rates, sam_rho=p.rhos, seed=p.seeds)
    return with_matched_loss(runs)


def sam_bound(runs: pd.DataFrame, rho: float = 0.05) -> pd.DataFrame:
    r"""Return the bound of the largest rise of the loss within a radius that Kaur et al. 2022 derive (appendix A.1).

    To second order $\max_{\|\epsilon\| \le \rho} L(w + \epsilon) - L(w) \le \rho \|g\| + \rho^2 \lambda_{\max} / 2$.

    >>> sam_bound(pd.DataFrame({"gradient_norm": [0.1], "lambda_max": [12.0], "sam_sharpness": [0.01]})).round(6)
       rise  gradient_share  reached
    0  0.02            0.25      0.5

    Args:
        runs: Table of runs with ``gradient_norm``, ``lambda_max`` and ``sam_sharpness``, the rise at SAM's step.
        rho: Radius, by default that of the measure ``sam_sharpness``.

    Returns:
        For each run ``rise``, the bound less the loss; ``gradient_share``, the share of the term with the gradient; and
        ``reached``, the rise at SAM's step over the bound.
    """
    require_columns(runs, IN_BOUND)
    first, second = rho * runs["gradient_norm"], rho**2 * runs["lambda_max"] / 2
    rise = first + second
    return pd.DataFrame({"rise": rise, "gradient_share": first / rise, "reached": runs["sam_sharpness"] / rise})


def bound_table(runs: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Return the gradient's share of the bound and how much of it is reached: a row for each setting that counts.

    Args:
        runs: Table of runs.
        varied: The setting that the chapter varies beside batch size and learning rate, or one of these.
    """
    by = list(dict.fromkeys(("batch_size", "learning_rate", varied)))
    columns = {"share of ρ‖g‖ in the bound": "gradient_share", "measured rise / bound": "reached"}
    return setting_means(with_bound(complete_cells(runs, by)), by, columns)


def bound_texts(runs: pd.DataFrame) -> dict[str, str]:
    """Return for prose ``gradient_share`` and ``reached`` in percent, over all runs that reached the stop rule."""
    kept = with_bound(runs[runs["status"] == "reached"])
    names = ("gradient_share", "reached")
    return {name: in_prose(100 * kept[name].groupby(kept["seed"]).mean()) for name in names}


def with_bound(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the columns of :func:`sam_bound`, those without the three measures excluded."""
    kept = runs.reindex(columns=[*runs, *(name for name in IN_BOUND if name not in runs)])
    kept = kept.dropna(subset=list(IN_BOUND))
    return kept.join(sam_bound(kept.astype(dict.fromkeys(IN_BOUND, float))))


CLAIM = Claim(
    chapter="03_sam",
    intervention="SAM",
    sentence=(
        "Sharpness-aware minimization finds smaller λ_max at every batch size, but it generalizes better only when the "
        "batch is small."
    ),
    source="Kaur, Cohen, Lipton 2022, section 3.3, Figures 6 and 7",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness (small batch)",
            "At the small batch, λ_max falls with the radius ρ.",
            SMALL.kendall("sam_rho", "lambda_max"),
            below(-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "sharpness (large batch)",
            "At the large batch, λ_max falls with ρ as well.",
            LARGE.kendall("sam_rho", "lambda_max"),
            below(-0.3),
            "λ_max falls (Figures 6, 7)",
        ),
        Prediction(
            "accuracy (small batch)",
            "At the small batch, SAM improves the test accuracy.",
            SMALL.difference(*GAIN),
            above(0),
            "accuracy rises with ρ (Figures 6, 7)",
            smallest=1,
        ),
        Prediction(
            "accuracy (large batch)",
            "At the large batch it does not: by less than half a point.",
            LARGE.difference(*GAIN),
            below(0.5),
            "accuracy falls slightly (Figure 6)",
        ),
        Prediction(
            "contrast",
            "SAM helps more at the small batch than at the large one.",
            SMALL.difference(*GAIN) - LARGE.difference(*GAIN),
            above(0),
            "the benefit vanishes at the large batch (section 3.3)",
            smallest=1,
        ),
    ),
)
