"""Claim 10: SAM finds smaller minimum sharpness and better accuracy with every base optimizer.

Bejan, Sanchez Ndoye, Vuckovic 2022, Figures 1-3. The verdict is on runs trained on the cross-entropy, as the paper
states; :func:`as_coded` selects those trained on the loss of its public code.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.bejan2022 import optimizer_grid
from flatlib.claims.papers import TAU_CIFAR10, TAU_FASHION
from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.settings import base_config, with_own_images
from flatlib.claims.study import Study
from flatlib.config import RunConfig
from flatlib.stats import format_mean


def as_stated(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs trained on the cross-entropy."""
    return runs[runs["loss"] == "cross_entropy"]


def as_coded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs trained on the loss of the paper's code, under the name of the other: for the same rules."""
    return runs[runs["loss"] == "batch_softmax"].assign(loss="cross_entropy")


def with_names(runs: pd.DataFrame) -> pd.DataFrame:
    """Add a column ``training`` for figures: inside SAM, or alone."""
    return runs.assign(training=(runs["sam_rho"] > 0).map({True: "inside SAM", False: "alone"}))


ALL = Study(settings=("model", "optimizer", "sam_rho"), prepare=as_stated)
PAIRED = replace(ALL, blocks=("model", "optimizer"), paired="sam_rho")
SHARPNESS = PAIRED.log2_ratio("minimum_sharpness", "sam_rho > 0", "sam_rho == 0")
ACCURACY = PAIRED.difference("test_accuracy", "sam_rho > 0", "sam_rho == 0")


def by_optimizer(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what SAM changes with each network and optimizer, as means over seeds with their intervals."""
    rows = []
    for (model, optimizer), block in PAIRED.select(runs).groupby(["model", "optimizer"]):
        changes = (format_mean(each.scale * each.per_block(block)) for each in (SHARPNESS, ACCURACY))
        rows.append((model, optimizer, *changes))
    return pd.DataFrame(rows, columns=["network", "optimizer", SHARPNESS.unit, ACCURACY.unit])


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: network x optimizer, alone and inside SAM, x seed; some also on the loss of the paper's code."""
    base = base_config(p)
    settings = optimizer_grid(base)
    settings += [config for config in optimizer_grid(base, "batch_softmax") if config.optimizer in p.coded]
    runs = [replace(config, model=model, seed=seed) for model in p.models for config in settings for seed in p.seeds]
    return with_own_images(runs)


CLAIM = Claim(
    chapter="10_minimum_sharpness",
    intervention="SAM",
    sentence=(
        "With every base optimizer, SAM gives a smaller minimum sharpness and a better test accuracy, and minimum "
        "sharpness goes with the generalization gap."
    ),
    source="Bejan, Sanchez Ndoye, Vuckovic 2022, sections III.B and III.C, Figures 1-3",
    experiment=experiment,
    predictions=(
        Prediction(
            "minimum sharpness",
            "SAM lowers the minimum sharpness.",
            SHARPNESS,
            below(0),
            "significantly less sharp (Figure 2)",
            smallest=0.5,
        ),
        Prediction(
            "minimum sharpness (every optimizer)",
            "It does so with every optimizer, also with the one where it lowers it least.",
            SHARPNESS.of_block(pd.Series.idxmax),
            below(0),
            "with every optimizer (Figure 2)",
            smallest=0.5,
            comparisons=6,  # optimizers
        ),
        Prediction("accuracy", "SAM improves the test accuracy.", ACCURACY, above(0), "better (Figure 1)", smallest=1),
        Prediction(
            "accuracy (every optimizer)",
            "It does so with every optimizer, also with the one that gains least.",
            ACCURACY.of_block(pd.Series.idxmin),
            above(0),
            "with every optimizer (Figure 1)",
            smallest=1,
            comparisons=6,
        ),
        Prediction(
            "correlation",
            "Minimum sharpness and the generalization gap are correlated.",
            ALL.kendall("minimum_sharpness", "generalization_gap").measured_in("Kendall's τ"),
            above(0),
            f"{TAU_FASHION} on FashionMNIST, {TAU_CIFAR10} on CIFAR-10 (Figure 3)",
            smallest=0.2,
        ),
    ),
)
