"""Claim 7: Adam with decoupled weight decay and averaged iterates is sharper than SGD, and as good or better.

Granziol 2020, section 5: SGD is heavy ball with momentum 0.9, "Gadam" is AdamW whose iterates are averaged at a lower
constant rate. Learning rates are tuned for each method on validation images, neither trained nor tested on, with seeds
of their own. Bejan et al. 2022, Figure 4: six optimizers, adaptive against not.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
from scipy.stats import ks_2samp

from flatlib.claims.bejan2022 import optimizer_grid
from flatlib.claims.contrasts import log2_ratio_by_seed, seed_differences
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

SGD, ADAM, AVERAGED = "SGD", "Adam", "Adam, averaged"
NAMES = {"heavy_ball": SGD, "adamw": ADAM}
ADAPTIVE = ("adam", "adagrad", "adashift", "adabound")
CELL = ["optimizer", "learning_rate"]


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that end after a number of epochs, with the name of their method."""
    kept = runs[runs["stop"] == "epochs"]
    names = kept["optimizer"].map(NAMES)
    return kept.assign(method=names.where(kept["averaging_start"].isna(), AVERAGED))


def tuned(tuning: pd.DataFrame) -> pd.DataFrame:
    """The mean validation accuracy of each method at each learning rate, NaN where a run diverged, and which rate is
    chosen: the best, and the first of equals."""
    runs = with_method(tuning).groupby(["method", "learning_rate"], sort=False)["validation_accuracy"]
    means = runs.agg(lambda values: values.mean(skipna=False)).reset_index()
    best = means.dropna().groupby("method")["validation_accuracy"].idxmax()
    return means.assign(chosen=means.index.isin(best))


def tuning_table(tuning: pd.DataFrame) -> pd.DataFrame:
    """The mean validation accuracy of each method at each learning rate, and which one was chosen."""
    means = tuned(tuning)
    percent = (100 * means["validation_accuracy"]).map("{:.1f} %".format, na_action="ignore")
    return means.assign(
        validation_accuracy=percent.fillna("a run diverged"), chosen=means["chosen"].map({True: "yes", False: ""})
    ).rename(columns={"learning_rate": "learning rate", "validation_accuracy": "validation accuracy"})


def best_rate(tuning: pd.DataFrame, config: RunConfig) -> float:
    """The learning rate that was chosen for the method that a configuration belongs to.

    Raises:
        FlatlibError: if a run of this method diverged at every rate.
    """
    method = NAMES[config.optimizer] if config.averaging_start is None else AVERAGED
    means = tuned(tuning)
    chosen = means.loc[means["chosen"] & (means["method"] == method), "learning_rate"]
    if chosen.empty:
        raise FlatlibError(f"{method}: no learning rate to choose, a run diverged at each; try smaller ones")
    return float(chosen.item())


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the main comparison: they keep no validation images, those that tune the learning rates do."""
    kept = with_method(runs[runs["validation_size"].isna()])
    return complete_cells(kept, ["method", "learning_rate"])


def difference(runs: pd.DataFrame, measure: str, statistic=seed_differences) -> pd.Series:
    """Per seed: averaged Adam's measure minus SGD's (or their doublings), each at its tuned learning rate."""
    kept = compared(runs)
    return statistic(kept, measure, kept["method"] == AVERAGED, kept["method"] == SGD)


def six(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the comparison of six optimizers, which end at a training loss, complete ones only."""
    kept = complete_cells(runs[runs["stop"] == "train_loss"], CELL)
    adaptive = kept["optimizer"].isin(ADAPTIVE)
    return kept.assign(adaptive=adaptive, kind=adaptive.map({True: "adaptive", False: "not adaptive"}))


def adaptive_difference(runs: pd.DataFrame, measure: str, statistic=seed_differences) -> pd.Series:
    """Per seed: the adaptive optimizers' mean measure minus the others' (or their doublings)."""
    kept = six(runs)
    return statistic(kept, measure, kept["adaptive"], ~kept["adaptive"])


def kolmogorov_smirnov(runs: pd.DataFrame) -> pd.DataFrame:
    """The two-sample test that the paper makes: are the adaptive optimizers' values drawn from another distribution?"""
    kept = six(runs)
    rows = []
    for name, column in (("test accuracy", "test_accuracy"), ("minimum sharpness", "minimum_sharpness")):
        others, adaptive = (kept.loc[kept["adaptive"] == kind, column].dropna() for kind in (False, True))
        found = ks_2samp(others, adaptive) if len(others) and len(adaptive) else None
        rows.append(
            {
                "measure": name,
                "not adaptive": len(others),
                "adaptive": len(adaptive),
                "largest distance": f"{found.statistic:.2f}" if found else "",
                "p": f"{found.pvalue:.2g}" if found else "",
            }
        )
    return pd.DataFrame(rows)


def candidates(p: SimpleNamespace) -> list[RunConfig]:
    """Return the three methods (SGD, Adam, and Adam with averaged iterates), each at every learning rate."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_sizes[0] or None,
        model=p.models[0],
        width=p.widths[0],
        batch_size=p.batch_size,
        augmentation=("flip",),
        stop="epochs",
        max_epochs=p.epochs[0],
        measure_size=p.measure_size,
        batch_norm=p.batch_norm,
        measures=("performance", "lambda_max", "frobenius", "gradient_norm", "weight_norm"),
    )
    sgd = replace(base, optimizer="heavy_ball", momentum=0.9, weight_decay=p.decays[0], schedule="granziol")
    adam = replace(base, optimizer="adamw", weight_decay=p.decays[1], weight_decay_kind="decoupled")
    found = [replace(sgd, learning_rate=rate) for rate in p.sgd_rates]
    for rate in p.adam_rates:
        averaged = replace(adam, learning_rate=rate, averaging_start=0.537, averaging_learning_rate=rate / 2)
        found += [replace(adam, learning_rate=rate, schedule="granziol"), averaged]
    return found


def tuning(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs that choose the learning rates: every candidate with seeds and validation images of its own."""
    trial = {"validation_size": p.validation_size, "measures": ("performance",)}
    return [replace(config, **trial, seed=seed) for config in candidates(p) for seed in p.tuning_seeds]


def experiment(p: SimpleNamespace, tuned_on: pd.DataFrame | None = None) -> list[RunConfig]:
    """Return the runs that are compared: each method at its best learning rate, then six optimizers, by seed.

    Args:
        p: the chapter's parameters.
        tuned_on: the table of the runs of :func:`tuning`; None takes every candidate.
    """
    methods = candidates(p)
    if tuned_on is not None:
        methods = [config for config in methods if config.learning_rate == best_rate(tuned_on, config)]
    short = RunConfig(
        dataset=p.dataset,
        train_size=p.train_sizes[1] or None,
        model=p.models[1],
        width=p.widths[1],
        max_epochs=p.epochs[1],
    )
    optimizers = [config for config in optimizer_grid(short) if not config.sam_rho]
    return [replace(config, seed=seed) for config in methods + optimizers for seed in p.seeds]


CLAIM = Claim(
    experiment=experiment,
    tuning=tuning,
    chapter="07_adam_vs_sgd",
    intervention="optimizer",
    sentence=(
        "Adam with decoupled weight decay and averaged iterates finds much sharper minima than SGD, and generalizes as "
        "well or better; adaptive optimizers as a class do not differ from the others."
    ),
    source="Granziol 2020, section 5, Figures 6 and 7; Bejan et al. 2022, Figure 4",
    predictions=(
        Prediction(
            "sharpness",
            "Averaged Adam's λ_max is larger than SGD's.",
            lambda runs: difference(runs, "lambda_max", log2_ratio_by_seed),
            "doublings of λ_max from SGD to Adam",
            Rule(low=0),
            "10.1 against 387.8 (Figure 6)",
        ),
        Prediction(
            "Frobenius norm",
            "So is its Frobenius norm.",
            lambda runs: difference(runs, "frobenius", log2_ratio_by_seed),
            "doublings of the Frobenius norm from SGD to Adam",
            Rule(low=0),
            "normalised 1.43e-5 against 1.55e-3 (Figure 7)",
        ),
        Prediction(
            "accuracy",
            "Averaged Adam's test accuracy is not worse by a point or more.",
            lambda runs: 100 * difference(runs, "test_accuracy"),
            "points of test accuracy, Adam minus SGD",
            Rule(low=-1),
            "73.5 against 75.8 % (Figure 6), 94.3 against 95.1 % (Figure 7)",
        ),
        Prediction(
            "training accuracy",
            "Both fit the training images equally well, within a point.",
            lambda runs: 100 * difference(runs, "train_accuracy"),
            "points of training accuracy, Adam minus SGD",
            Rule(low=-1, high=1),
            "99.64 and 99.81 % (Figure 6)",
        ),
        Prediction(
            "adaptive (accuracy)",
            "Over six optimizers, the adaptive ones' test accuracy is within a point of the others'.",
            lambda runs: 100 * adaptive_difference(runs, "test_accuracy"),
            "points of test accuracy, adaptive minus not",
            Rule(low=-1, high=1),
            "no difference found, p = .48 (Bejan et al., Figure 4)",
        ),
        Prediction(
            "adaptive (minimum sharpness)",
            "Their minimum sharpness is within a factor of two of the others'.",
            lambda runs: adaptive_difference(runs, "minimum_sharpness", log2_ratio_by_seed),
            "doublings of the minimum sharpness, adaptive over not",
            Rule(low=-1, high=1),
            "no difference found, p = .64 (Bejan et al., Figure 4)",
        ),
    ),
)
