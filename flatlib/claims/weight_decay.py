"""Claim 6: weight decay makes minima sharper and generalizes better.

Granziol 2020, section 4; MacDonald et al. 2023, Figure 2. Curvature is that of the loss without the penalty. Networks,
lengths of training and input scalings are compared with themselves only.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd

from flatlib.claims.papers import GRANZIOL2020_MNIST, MLP_ACCURACY, MLP_GAP, SOFTMAX_ACCURACY, SOFTMAX_SHARPNESS
from flatlib.claims.prediction import Claim, Guard, Prediction, above, below
from flatlib.claims.settings import base_config
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import require_one_of
from flatlib.stats import format_mean

BLOCKS = ("model", "learning_rate", "max_epochs", "standardize", "pixels")
INPUTS: dict[str, dict[str, Any]] = {
    "standardized": {"standardize": True},
    "in [0, 1]": {"standardize": False, "pixels": "unit"},
    "in [-1, 1]": {"standardize": False, "pixels": "symmetric"},
}
DECAY = Study(settings=(*BLOCKS, "weight_decay"), blocks=BLOCKS)
WITH, WITHOUT = "weight_decay > 0", "weight_decay == 0"
FALL = (WITHOUT, f"{WITH} and weight_decay == weight_decay.max()", " from the strongest decay to none")
JACOBIANS = (
    ("softmax", "softmax_jacobian_norm", "its largest over the images"),
    ("logits", "jacobian_norm_mean", "its mean over them"),
)
MEASURES = (("accuracy", "test_accuracy", 100), ("gap", "generalization_gap", 100), ("λ_max", "lambda_max", 1))


def compare_with_paper(scales: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return our numbers on MNIST, and the paper's in parentheses, for every scale with the same network and decay."""
    rows = []
    for scale, runs in scales.items():
        for key, group in DECAY.select(validated(runs[runs["dataset"] == "mnist"])).groupby(list(DECAY.settings)):
            setting = dict(zip(DECAY.settings, key, strict=True))
            paper = GRANZIOL2020_MNIST.get(setting["model"], {}).get(setting["weight_decay"])
            if paper is None:
                continue
            row = {"scale": scale, "network": setting["model"], "epochs": setting["max_epochs"]}
            row["inputs"] = inputs_of(setting)
            row |= {"γ": f"{setting['weight_decay']:g}", "n": group["seed"].nunique()}
            for (name, column, unit), reported in zip(MEASURES, paper, strict=True):
                ours = format_mean(group[column].dropna() * unit, missing="").partition(", n =")[0]
                row[f"{name} (paper)"] = (ours or "none") + f" ({reported})" * bool(reported)
            rows.append(row)
    return pd.DataFrame(rows or [{"scale": "no scale here has the paper's networks on MNIST"}])


def validated(runs: pd.DataFrame) -> pd.DataFrame:
    """Put accuracy and gap on the validation images, as in the paper, in place of those on test images."""
    if "validation_accuracy" not in runs:
        return runs
    accuracy = runs["validation_accuracy"].fillna(runs["test_accuracy"])
    gap = runs["generalization_gap"] + runs["test_accuracy"] - accuracy
    return runs.assign(test_accuracy=accuracy, generalization_gap=gap)


def inputs_of(setting: Mapping[str, Any]) -> str:
    """Return the name in ``INPUTS`` of a run's scaling of its inputs."""
    return next(name for name, fields in INPUTS.items() if all(setting[key] == value for key, value in fields.items()))


def first_protocol(runs: pd.DataFrame, p: SimpleNamespace) -> pd.DataFrame:
    """Return the runs of the first length of training and the first scaling of the inputs."""
    named = runs.apply(inputs_of, axis=1)
    return runs[(runs["max_epochs"] == p.epochs[0]) & (named == p.inputs[0])]


def networks(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs of the comparison: network x input scaling x length of training x weight decay x seed."""
    granziol = {"optimizer": "heavy_ball", "momentum": 0.9, "schedule": "granziol", "stop": "epochs"}
    curvature = ("lambda_max", "trace", "frobenius", "softmax_jacobian_norm")
    fixed: dict[str, Any] = granziol | {"measures": ("performance", *curvature, "gradient_norm", "weight_norm")}
    axes = {"max_epochs": p.epochs, "weight_decay": p.weight_decays, "seed": p.seeds}
    for name in p.inputs:
        require_one_of("inputs", name, INPUTS)
    bases = [base_config(p, **fixed, model=model, **INPUTS[name]) for model in p.models for name in p.inputs]
    return [run for base in bases for run in grid(base, **axes)]


def spectra(p: SimpleNamespace) -> list[RunConfig]:
    """Return runs that measure a whole spectrum: one seed of the first network at each weight decay."""
    one_seed = [replace(run, measures=("density",)) for run in networks(p) if run.seed == p.seeds[0]]
    return one_seed[: len(p.weight_decays)]


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return all runs of the chapter."""
    return networks(p) + spectra(p)


def fit_without_decay(block: pd.DataFrame) -> pd.Series:
    """Return each seed's training accuracy without weight decay, in percent."""
    without = block[block["weight_decay"] == 0]
    return 100 * without.groupby("seed")["train_accuracy"].mean()


FITS = Guard(
    "fit",
    "Without weight decay the network fits its training images: in a model that cannot, nothing vanishes.",
    Statistic(DECAY, fit_without_decay, "% training accuracy"),
    above(99),
)
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
            smallest=0.3,  # half of the gain in the paper's Figure 1
        ),
        Prediction(
            "gap",
            "It lowers the generalization gap.",
            DECAY.difference("generalization_gap", WITH, WITHOUT),
            below(0),
            f"{MLP_GAP} points (Figure 2)",
            smallest=0.2,  # half of the fall in the paper's Figure 2
        ),
        Prediction(
            "vanishing sharpness",
            "Without weight decay λ_max is less than half of that with the strongest.",
            DECAY.log2_ratio("lambda_max", *FALL),
            below(-1),
            "vanishing sharpness (MacDonald et al., Figure 2)",
            guards=(FITS,),
        ),
        *(
            Prediction(
                f"Jacobian norm ({which})",
                f"Without weight decay the {which} Jacobian norm is larger all the same, {over}.",
                DECAY.log2_ratio(column, *FALL),
                above(0),
                "relatively large (MacDonald et al., Figure 2)",
                guards=(FITS,),
                smallest=0.5,
            )
            for which, column, over in JACOBIANS
        ),
    ),
)
