"""Claim 6: weight decay makes minima sharper and generalizes better.

Granziol 2020, section 4; MacDonald et al. 2023, Figure 2. Curvature is that of the loss without the penalty. Networks,
lengths of training and input scalings are compared with themselves only.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import log2_ratio_by_seed, mean_over_blocks, seed_differences, seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig, grid
from flatlib.stats import bootstrap_mean

SAME = ["model", "learning_rate", "max_epochs", "standardize"]
CELL = [*SAME, "weight_decay"]
JACOBIAN = "softmax_jacobian_norm"


def counted(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete settings."""
    return complete_cells(runs, CELL)


def order(runs: pd.DataFrame, measure: str) -> pd.Series:
    """Per seed: Kendall's tau of the weight decay and a measure; 1 if it rises with every step."""
    return mean_over_blocks(counted(runs), SAME, lambda group: seed_taus(group, "weight_decay", measure))


def gain(runs: pd.DataFrame, measure: str) -> pd.Series:
    """Per seed: points that weight decay adds to an accuracy or a gap, as a mean over its values."""
    return 100 * mean_over_blocks(
        counted(runs),
        SAME,
        lambda group: seed_differences(group, measure, group["weight_decay"] > 0, group["weight_decay"] == 0),
    )


def doublings_without(runs: pd.DataFrame, measure: str) -> pd.Series:
    """Per seed: doublings of a measure from the strongest weight decay to none."""
    return mean_over_blocks(
        counted(runs),
        SAME,
        lambda group: log2_ratio_by_seed(group, measure, group["weight_decay"] == 0, strongest(group)),
    )


def strongest(group: pd.DataFrame) -> pd.Series:
    """Which runs have the strongest weight decay; none where no run has any."""
    return (group["weight_decay"] > 0) & (group["weight_decay"] == group["weight_decay"].max())


# test accuracy in percent, gap in points, lambda_max, by network and weight decay (Figures 1 and 2)
PAPER = {
    ("softmax_regression", 0.0): ("93.48", "", "12.26"),
    ("softmax_regression", 1e-4): ("94", "", "14.17"),
    ("softmax_regression", 5e-4): ("94.08", "", "15.84"),
    ("mlp", 0.0): ("94.4", ".48", ""),
    ("mlp", 1e-4): ("96.46", ".51", ""),
    ("mlp", 5e-4): ("96.7", ".04", ""),
}


def beside_the_paper(scales: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Our numbers on MNIST beside those that the paper gives, for every scale that has the same network and decay."""
    rows = []
    for scale, runs in scales.items():
        for key, group in counted(runs[runs["dataset"] == "mnist"]).groupby(CELL):
            setting = dict(zip(CELL, key, strict=True))
            paper = PAPER.get((setting["model"], setting["weight_decay"]))
            if paper is None:
                continue
            columns = (("test_accuracy", 100), ("generalization_gap", 100), ("lambda_max", 1))
            ours = [mean_of(group[name].dropna() * unit) for name, unit in columns]
            row = {
                "scale": scale,
                "network": setting["model"],
                "epochs": setting["max_epochs"],
                "inputs": "standardized" if setting["standardize"] else "in [0, 1]",
                "γ": f"{setting['weight_decay']:g}",
                "n": group["seed"].nunique(),
            }
            for name, text, reported in zip(("accuracy", "gap", "λ_max"), ours, paper, strict=True):
                row |= {name: text, f"{name} (paper)": reported}
            rows.append(row)
    return pd.DataFrame(rows or [{"scale": "no scale here has the paper's networks on MNIST"}])


def mean_of(values: pd.Series) -> str:
    """A mean with its interval, without the number of seeds; empty where there is no value."""
    return str(bootstrap_mean(values)).rpartition(", n =")[0] if len(values) else ""


def networks(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs of the comparison: network x input scaling x length of training x weight decay x seed."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        width=p.width,
        batch_size=p.batch_size,
        learning_rate=p.learning_rate,
        optimizer="heavy_ball",
        momentum=0.9,
        schedule="granziol",
        augmentation=tuple(p.augmentation),
        stop="epochs",
        measure_size=p.measure_size,
        batch_norm=p.batch_norm,
        measures=("performance", "lambda_max", "trace", "frobenius", JACOBIAN, "gradient_norm", "weight_norm"),
    )
    models = [replace(base, model=name, depth=p.depth if name == "mlp" else 2) for name in p.models]
    axes = {"standardize": [name == "standardized" for name in p.inputs], "max_epochs": p.epochs}
    return [run for model in models for run in grid(model, **axes, weight_decay=p.weight_decays, seed=p.seeds)]


def spectra(p: SimpleNamespace) -> list[RunConfig]:
    """Return runs that measure a whole spectrum: one seed of the first network at each weight decay."""
    one_seed = [replace(run, measures=("density",)) for run in networks(p) if run.seed == p.seeds[0]]
    return one_seed[: len(p.weight_decays)]


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return all runs of the chapter."""
    return networks(p) + spectra(p)


CLAIM = Claim(
    experiment=experiment,
    chapter="06_weight_decay",
    intervention="weight decay",
    sentence=(
        "Weight decay makes the minimum sharper and the network better; without it λ_max vanishes while the "
        "input-output Jacobian stays large."
    ),
    source="Granziol 2020, section 4, Figures 1-5; MacDonald et al. 2023, Figure 2",
    predictions=(
        Prediction(
            "sharpness",
            "λ_max rises with the weight decay γ.",
            lambda runs: order(runs, "lambda_max"),
            "Kendall's τ of γ and λ_max",
            Rule(low=0.3),
            "12.26, 14.17, 15.84 for γ = 0, 1e-4, 5e-4 (Figure 1)",
        ),
        Prediction(
            "Frobenius norm",
            "So does the Frobenius norm of the Hessian.",
            lambda runs: order(runs, "frobenius"),
            "Kendall's τ of γ and the Frobenius norm",
            Rule(low=0.3),
            "grows in every network (Figures 1-5)",
        ),
        Prediction(
            "accuracy",
            "Weight decay improves the test accuracy.",
            lambda runs: gain(runs, "test_accuracy"),
            "points of test accuracy",
            Rule(low=0),
            "93.48, 94, 94.08 % (Figure 1); 94.4, 96.46, 96.7 % (Figure 2)",
        ),
        Prediction(
            "gap",
            "It lowers the generalization gap.",
            lambda runs: gain(runs, "generalization_gap"),
            "points of generalization gap",
            Rule(high=0),
            ".48, .51, .04 points (Figure 2)",
        ),
        Prediction(
            "vanishing sharpness",
            "Without weight decay λ_max is less than half of that with the strongest.",
            lambda runs: doublings_without(runs, "lambda_max"),
            "doublings of λ_max from the strongest decay to none",
            Rule(high=-1),
            "vanishing sharpness (MacDonald et al., Figure 2)",
        ),
        Prediction(
            "Jacobian norm",
            "Without weight decay the softmaxed network's largest Jacobian norm is larger all the same.",
            lambda runs: doublings_without(runs, JACOBIAN),
            "doublings of the Jacobian norm from the strongest decay to none",
            Rule(low=0),
            "relatively large (MacDonald et al., Figure 2)",
        ),
    ),
)
