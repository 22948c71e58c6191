"""Claim 6: weight decay makes minima sharper and generalizes better.

Granziol 2020, section 4; MacDonald et al. 2023, Figure 2. Curvature is that of the loss without the penalty. Networks,
lengths of training and input scalings are compared with themselves only.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.claims.papers import GRANZIOL2020_MNIST, MLP_ACCURACY, MLP_GAP, SOFTMAX_ACCURACY, SOFTMAX_SHARPNESS
from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.settings import base_config
from flatlib.claims.study import Study
from flatlib.config import RunConfig, grid
from flatlib.stats import format_mean

BLOCKS = ("model", "learning_rate", "max_epochs", "standardize")
DECAY = Study(settings=(*BLOCKS, "weight_decay"), blocks=BLOCKS)
WITH, WITHOUT = "weight_decay > 0", "weight_decay == 0"
FALL = (WITHOUT, f"{WITH} and weight_decay == weight_decay.max()", " from the strongest decay to none")
MEASURES = (("accuracy", "test_accuracy", 100), ("gap", "generalization_gap", 100), ("λ_max", "lambda_max", 1))


def compare_with_paper(scales: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return our numbers on MNIST and the paper's, for every scale that has the same network and decay."""
    rows = []
    for scale, runs in scales.items():
        for key, group in DECAY.select(runs[runs["dataset"] == "mnist"]).groupby(list(DECAY.settings)):
            setting = dict(zip(DECAY.settings, key, strict=True))
            paper = GRANZIOL2020_MNIST.get(setting["model"], {}).get(setting["weight_decay"])
            if paper is None:
                continue
            row = {"scale": scale, "network": setting["model"], "epochs": setting["max_epochs"]}
            row["inputs"] = "standardized" if setting["standardize"] else "in [0, 1]"
            row |= {"γ": f"{setting['weight_decay']:g}", "n": group["seed"].nunique()}
            for (name, column, unit), reported in zip(MEASURES, paper, strict=True):
                ours = format_mean(group[column].dropna() * unit, missing="").rpartition(", n =")[0]
                row |= {name: ours, f"{name} (paper)": reported}
            rows.append(row)
    return pd.DataFrame(rows or [{"scale": "no scale here has the paper's networks on MNIST"}])


def networks(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs of the comparison: network x input scaling x length of training x weight decay x seed."""
    granziol = {"optimizer": "heavy_ball", "momentum": 0.9, "schedule": "granziol", "stop": "epochs"}
    curvature = ("lambda_max", "trace", "frobenius", "softmax_jacobian_norm")
    fixed: dict[str, Any] = granziol | {"measures": ("performance", *curvature, "gradient_norm", "weight_norm")}
    axes = {"standardize": [name == "standardized" for name in p.inputs], "max_epochs": p.epochs}
    axes |= {"weight_decay": p.weight_decays, "seed": p.seeds}
    return [run for model in p.models for run in grid(base_config(p, **fixed, model=model), **axes)]


def spectra(p: SimpleNamespace) -> list[RunConfig]:
    """Return runs that measure a whole spectrum: one seed of the first network at each weight decay."""
    one_seed = [replace(run, measures=("density",)) for run in networks(p) if run.seed == p.seeds[0]]
    return one_seed[: len(p.weight_decays)]


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return all runs of the chapter."""
    return networks(p) + spectra(p)


CLAIM = Claim(
    chapter="06_weight_decay",
    intervention="weight decay",
    sentence=(
        "Weight decay makes the minimum sharper and the network better; without it λ_max vanishes while the "
        "input-output Jacobian stays large."
    ),
    source="Granziol 2020, section 4, Figures 1-5; MacDonald et al. 2023, Figure 2",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness",
            "λ_max rises with the weight decay γ.",
            DECAY.kendall("weight_decay", "lambda_max"),
            above(0.3),
            f"{SOFTMAX_SHARPNESS} for γ = 0, 1e-4, 5e-4 (Figure 1); rises (Figure 2)",
        ),
        Prediction(
            "Frobenius norm",
            "So does the Frobenius norm of the Hessian.",
            DECAY.kendall("weight_decay", "frobenius"),
            above(0.3),
            "9.8e-12, 4.9e-5 (Figure 8)",
        ),
        Prediction(
            "accuracy",
            "Weight decay improves the test accuracy.",
            DECAY.difference("test_accuracy", WITH, WITHOUT),
            above(0),
            f"{SOFTMAX_ACCURACY} % (Figure 1); {MLP_ACCURACY} % (Figure 2)",
        ),
        Prediction(
            "gap",
            "It lowers the generalization gap.",
            DECAY.difference("generalization_gap", WITH, WITHOUT),
            below(0),
            f"{MLP_GAP} points (Figure 2)",
        ),
        Prediction(
            "vanishing sharpness",
            "Without weight decay λ_max is less than half of that with the strongest.",
            DECAY.log2_ratio("lambda_max", *FALL),
            below(-1),
            "vanishing sharpness (MacDonald et al., Figure 2)",
        ),
        Prediction(
            "Jacobian norm",
            "Without weight decay the softmaxed network's largest Jacobian norm is larger all the same.",
            DECAY.log2_ratio("softmax_jacobian_norm", *FALL),
            above(0),
            "relatively large (MacDonald et al., Figure 2)",
        ),
    ),
)
