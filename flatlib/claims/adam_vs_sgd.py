"""Claim 7: Adam with decoupled weight decay and averaged iterates is sharper than SGD, and as good or better.

Granziol 2020, section 5: SGD is heavy ball with momentum 0.9, "Gadam" is AdamW with averaged iterates. Learning rates
are tuned on further images with seeds of their own. Bejan et al. 2022, Figure 4: six optimizers, adaptive against not.
"""

from dataclasses import replace
from math import comb
from types import SimpleNamespace
from typing import Any

import pandas as pd
from scipy.stats import ks_2samp

from flatlib.claims.bejan2022 import optimizer_grid
from flatlib.claims.papers import CIFAR10, CIFAR100, FROBENIUS, P_ACCURACY, P_SHARPNESS
from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.settings import JACOBIANS, SIZES, base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

SGD, ADAM, AVERAGED = "SGD", "Adam", "Adam, averaged"
NAMES = {"heavy_ball": SGD, "adamw": ADAM}
ADAPTIVE = ("adam", "adagrad", "adashift", "adabound")


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that end after a number of epochs, with the name of their method."""
    kept = runs[runs["stop"] == "epochs"]
    names = kept["optimizer"].map(NAMES)
    return kept.assign(method=names.where(kept["averaging_start"].isna(), AVERAGED))


def tuned(tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the mean validation accuracy of each method at each learning rate, and which rate is chosen.

    It is the best one, and the first of equals; the mean is NaN where a run diverged.
    """
    runs = with_method(tuning).groupby(["method", "learning_rate"], sort=False)["validation_accuracy"]
    means = runs.agg(lambda values: values.mean(skipna=False)).reset_index()
    best = means.dropna().groupby("method")["validation_accuracy"].idxmax()
    return means.assign(chosen=means.index.isin(best))


def tuning_table(tuning: pd.DataFrame) -> pd.DataFrame:
    """Format the result of :func:`tuned` for a page."""
    means = tuned(tuning)
    percent = (100 * means["validation_accuracy"]).map("{:.1f} %".format, na_action="ignore").fillna("a run diverged")
    means = means.assign(validation_accuracy=percent, chosen=means["chosen"].map({True: "yes", False: ""}))
    return means.rename(columns=lambda name: name.replace("_", " "))


def best_rate(tuning: pd.DataFrame, config: RunConfig) -> float:
    """Return the learning rate chosen for a configuration's method; refuse one that diverged at every rate."""
    method = NAMES[config.optimizer] if config.averaging_start is None else AVERAGED
    means = tuned(tuning)
    chosen = means.loc[means["chosen"] & (means["method"] == method), "learning_rate"]
    if chosen.empty:
        raise FlatlibError(f"{method}: no learning rate to choose, a run diverged at each; try smaller ones")
    return float(chosen.item())


def six_optimizers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the comparison of six optimizers, which end at a training loss."""
    kept = runs[runs["stop"] == "train_loss"]
    adaptive = kept["optimizer"].isin(ADAPTIVE)
    return kept.assign(adaptive=adaptive, kind=adaptive.map({True: "adaptive", False: "not adaptive"}))


# The runs that tune the learning rates, with validation images, are not compared
MAIN = Study(("method", "learning_rate"), prepare=lambda runs: with_method(runs[runs["validation_size"].isna()]))
SIX = Study(settings=("optimizer", "learning_rate"), prepare=six_optimizers)
METHODS, KINDS = (f"method == '{AVERAGED}'", f"method == '{SGD}'"), ("adaptive", "not adaptive")
RATIO, DIFFERENCE = (*METHODS, " from SGD to Adam"), (*METHODS, ", Adam minus SGD")


def smallest_p(others: int, adaptive: int) -> float:
    """Return the smallest p of a two-sided test of so many optimizers of two kinds: that of complete separation.

    >>> round(smallest_p(2, 4), 3)
    0.133
    """
    return 2 / comb(others + adaptive, adaptive)


def kolmogorov_smirnov(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's two-sample test: are the adaptive optimizers' values drawn from another distribution?

    A value is one optimizer's mean over its seeds. Its runs are no further optimizers.
    """
    kept = SIX.select(runs)
    rows = []
    for name, column in (("test accuracy", "test_accuracy"), ("minimum sharpness", "minimum_sharpness")):
        means = kept.astype({column: float}).groupby(["adaptive", "optimizer"])[column].mean().dropna()
        others, adaptive = (means[means.index.get_level_values("adaptive") == kind] for kind in (False, True))
        found = ks_2samp(others, adaptive, method="exact") if len(others) and len(adaptive) else None
        least = smallest_p(len(others), len(adaptive))
        shown = (f"{found.statistic:.2f}", f"{found.pvalue:.2g}", f"{least:.2g}") if found else ("", "", "")
        rows.append((name, len(others), len(adaptive), *shown))
    return pd.DataFrame(rows, columns=["measure", "not adaptive", "adaptive", "largest distance", "p", "smallest p"])


def reachable_p(kept: pd.DataFrame) -> pd.Series:
    """Return for each seed the smallest p that a test of its two kinds of optimizers can have."""
    optimizers = kept.groupby("seed")[["optimizer", "adaptive"]].apply(lambda of_seed: of_seed.drop_duplicates())
    counts = optimizers.groupby("seed")["adaptive"].agg(["sum", "size"])
    return counts.apply(lambda row: smallest_p(row["size"] - row["sum"], row["sum"]), axis=1).astype(float)


def comparison(p: SimpleNamespace, index: int) -> dict[str, Any]:
    """Return the sizes of the first comparison (methods) or of the second (six optimizers)."""
    sizes = {"width": p.widths[index], "train_size": p.train_sizes[index] or None, "max_epochs": p.epochs[index]}
    return {"model": p.models[index]} | sizes


def candidates(p: SimpleNamespace) -> list[RunConfig]:
    """Return the three methods (SGD, Adam, and Adam with averaged iterates), each at every learning rate."""
    curvature = ("lambda_max", "lambda_min", "frobenius", "preconditioned_lambda_max")
    measures = ("performance", *curvature, *JACOBIANS, *SIZES)
    fixed = {"stop": "epochs", "augmentation": ("flip",), "validation_size": None, "measures": measures}
    fixed["batch_norm"] = "train"  # as the paper measures
    base = base_config(p, **comparison(p, 0), **fixed)
    sgd = replace(base, optimizer="heavy_ball", momentum=0.9, weight_decay=p.decays[0], schedule="granziol")
    adam = replace(base, optimizer="adamw", weight_decay=p.decays[1], weight_decay_kind="decoupled")
    found = [replace(sgd, learning_rate=rate) for rate in p.sgd_rates]
    for rate in p.adam_rates:
        averaged = {"schedule": "granziol_averaging", "averaging_start": 0.537, "averaging_learning_rate": rate / 2}
        found += [replace(adam, learning_rate=rate, schedule="granziol"), replace(adam, learning_rate=rate, **averaged)]
    return found


def tuning(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs that choose the learning rates: every candidate with seeds and validation images of its own."""
    trial = {"validation_size": p.validation_size, "measures": ("performance",)}
    return with_own_images([replace(config, **trial, seed=seed) for config in candidates(p) for seed in p.tuning_seeds])


def experiment(p: SimpleNamespace, tuned_on: pd.DataFrame | None = None) -> list[RunConfig]:
    """Return the runs that are compared: each method at its best learning rate, then six optimizers, by seed.

    Args:
        p: The chapter's parameters.
        tuned_on: The table of the runs of :func:`tuning`; None takes every candidate.
    """
    methods = candidates(p)
    if tuned_on is not None:
        methods = [config for config in methods if config.learning_rate == best_rate(tuned_on, config)]
    short = RunConfig(dataset=p.dataset, **comparison(p, 1))
    optimizers = [config for config in optimizer_grid(short) if not config.sam_rho]
    return with_own_images([replace(config, seed=seed) for config in methods + optimizers for seed in p.seeds])


FIT = Guard(
    "fit",
    "Adam and SGD fit the training images equally well, within a point.",
    MAIN.difference("train_accuracy", *DIFFERENCE),
    between(-1, 1),
)
ENOUGH = Guard(
    "optimizers",
    "There are enough optimizers of both kinds for a test of the kinds to find a difference.",
    Statistic(SIX, reachable_p, "smallest p that can be reached"),
    below(0.05),
)
CLAIM = Claim(
    chapter="07_adam_vs_sgd",
    intervention="optimizer",
    sentence=(
        "Adam with decoupled weight decay and averaged iterates finds much sharper minima than SGD, at larger weights, "
        "and generalizes as well or better; adaptive optimizers as a class do not differ from the others."
    ),
    source="Granziol 2020, section 5, Figures 6 and 7; Bejan et al. 2022, Figure 4",
    experiment=experiment,
    tuning=tuning,
    predictions=(
        Prediction(
            "sharpness",
            "Averaged Adam's λ_max is more than twice SGD's.",
            MAIN.log2_ratio("lambda_max", *RATIO),
            above(1),
            "10.1 against 387.8 (Figure 6)",
            guards=(FIT,),
        ),
        Prediction(
            "Frobenius norm",
            "So is its Frobenius norm.",
            MAIN.log2_ratio("frobenius", *RATIO),
            above(1),
            f"{' against '.join(FROBENIUS)}, as printed (Figure 7)",
            guards=(FIT,),
        ),
        Prediction(
            "weight norm",
            "Its weights have the larger norm.",
            MAIN.log2_ratio("weight_norm", *RATIO),
            above(0),
            "higher norms (section 5, Figures 6c and 7c)",
            guards=(FIT,),
            smallest=0.25,
        ),
        Prediction(
            "accuracy",
            "Averaged Adam's test accuracy is not worse by a point or more.",
            MAIN.difference("test_accuracy", *DIFFERENCE),
            above(-1),
            f"{' against '.join(CIFAR100)} % (Figure 6), {' against '.join(CIFAR10)} % (Figure 7)",
            guards=(FIT,),
        ),
        Prediction(
            "adaptive (accuracy)",
            "Over six optimizers, the adaptive ones' test accuracy is within a point of the others'.",
            SIX.difference("test_accuracy", *KINDS, ", adaptive minus not"),
            between(-1, 1),
            f"no difference found, p = {P_ACCURACY} (Bejan et al., section III.D, Figure 4)",
            guards=(ENOUGH,),
        ),
        Prediction(
            "adaptive (minimum sharpness)",
            "Their minimum sharpness is within a factor of two of the others'.",
            SIX.log2_ratio("minimum_sharpness", *KINDS, ", adaptive over not"),
            between(-1, 1),
            f"no difference found, p = {P_SHARPNESS} (Bejan et al., section III.D, Figure 4)",
            guards=(ENOUGH,),
        ),
    ),
)
