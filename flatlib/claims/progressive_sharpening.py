"""Claim 8: sharpness rises until 2 / learning rate and stays there, and the input-output Jacobian grows with it.

MacDonald et al. 2023, section 5, on the phenomenon of Cohen et al. 2021. All statistics read trajectories, up to where
the data are fitted (``flatlib.claims.along_run``).
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from flatlib.claims.along_run import JACOBIAN, distance_at_start, hover, jacobian_growth, rise, rise_together
from flatlib.claims.jacobian_bound import measured_at_end
from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.settings import base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.stats import format_mean, seed_slopes

LINEAR = "softmax_regression"
SHARPENS, GROWS = "doublings of λ_max", "doublings of the Jacobian norm"  # units
TINY = np.finfo(float).tiny  # in place of a sharpness of zero, of a network that broke down
NEVER = "never reached it"  # in a table, where no seed's run reached 2 / learning rate


def on_images(runs: pd.DataFrame, loss: str = "cross_entropy") -> pd.DataFrame:
    """Return the tracked runs on one loss and on images as they are."""
    return runs[(runs["loss"] == loss) & (runs["input_scale"] == 1) & runs["trajectory"].map(bool)]


def main_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the main experiment: the widest range of learning rates belongs to one network."""
    runs = on_images(runs)
    networks = runs.groupby(["model", "width"])["learning_rate"].nunique()
    if networks.empty:
        raise FlatlibError("no run is recorded")
    model, width = networks.idxmax()
    return runs[(runs["model"] == model) & (runs["width"] == width)]


def farthest_from_edge(means: pd.Series) -> float:
    """Return the learning rate whose lambda_max x learning rate / 2 is farthest from 1, as a ratio."""
    return np.maximum(means, 1 / means.where(means > 0, TINY)).idxmax()


MAIN, LINEAR_MODEL = Study(prepare=main_runs), Study(prepare=lambda runs: runs[runs["model"] == LINEAR])
BY_RATE = replace(MAIN, blocks=("learning_rate",))
SQUARED = replace(BY_RATE, prepare=lambda runs: on_images(runs, "squared"))


def mean_over_runs(study: Study, of_run: Callable[[pd.Series], float], unit: str) -> Statistic:
    """Return the mean over a seed's runs of a number per run; diverged and NaN runs are excluded."""

    def per_seed(runs: pd.DataFrame) -> pd.Series:
        runs = runs[runs["status"] != "diverged"]
        if runs.empty:
            raise FlatlibError("no run of this kind is recorded")
        return runs.apply(of_run, axis=1).groupby(runs["seed"]).mean()

    return Statistic(study, per_seed, unit)


def width_slope(runs: pd.DataFrame) -> pd.Series:
    """Return each seed's doublings of lambda_max per decade of width, at the smallest learning rate."""
    kept = on_images(runs[(runs["model"] != LINEAR) & (runs["status"] != "diverged")])
    if kept["width"].nunique() < 2:
        raise FlatlibError("width: the prediction compares at least two")
    kept = kept[kept["learning_rate"] == kept["learning_rate"].min()]
    return seed_slopes(kept.assign(rise=kept.apply(rise, axis=1)), "width", "rise")


def from_closer_inputs(of_run: Callable[[pd.Series], float], unit: str) -> Statistic:
    """Return by how much each seed's number per run is larger with the closest inputs than with images as they are."""

    def per_seed(runs: pd.DataFrame) -> pd.Series:
        kept = runs[runs["status"] != "diverged"]
        scaled = kept[kept["input_scale"] < 1]
        if scaled.empty:
            raise FlatlibError("input_scale: the prediction compares two")
        closest = scaled[scaled["input_scale"] == scaled["input_scale"].min()]
        plain = main_runs(kept)
        plain = plain[plain["learning_rate"].isin(closest["learning_rate"])]
        means = [part.apply(of_run, axis=1).groupby(part["seed"]).mean() for part in (closest, plain)]
        return means[0] - means[1]

    return Statistic(Study(), per_seed, unit)


def by_learning_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per learning rate of the main experiment: its edge of stability, and the means over seeds."""
    kept = main_runs(runs[runs["status"] != "diverged"])
    seeds = kept.assign(rise=kept.apply(rise, axis=1), hover=kept.apply(hover, axis=1)).groupby("learning_rate")
    rows = [
        (rate, f"{2 / rate:g}", *(format_mean(found[column], NEVER) for column in ("rise", "hover")))
        for rate, found in seeds
    ]
    return pd.DataFrame(rows, columns=["learning rate", "2/η", SHARPENS, "λ_max η / 2 at the edge"])


def network(runs: pd.DataFrame) -> pd.Series:
    """Return what to call each run's network in a figure: its width, or that it is linear."""
    return ("width " + runs["width"].map("{:g}".format)).where(runs["model"] != LINEAR, "linear")


def descent(p: SimpleNamespace) -> list[RunConfig]:
    """Return full-batch runs: learning rate x seed, on cross-entropy and on the squared loss; at the smallest rate
    other widths and inputs that are closer together; a linear model at a rate that it does not reach 2/η at."""
    fixed: dict[str, Any] = {
        **{"batch_size": 0, "max_updates": None, "max_epochs": p.max_updates, "check_every": 10},
        **{"stop": "train_loss", "stop_value": p.stop_loss, "measures": ("performance",)},
        **{"track": ("train_loss", "lambda_max", "jacobian_norm", JACOBIAN), "track_time": p.time_step},
        "width": p.widths[0],
    }
    lowest = min(p.learning_rates)
    main = grid(base_config(p, **fixed), learning_rate=p.learning_rates, seed=p.seeds)
    slow = [run for run in main if run.learning_rate == lowest]
    widths = [replace(run, width=width) for width in p.widths[1:] for run in slow]
    closer = [replace(run, input_scale=scale) for scale in p.input_scales for run in slow]
    squared = [replace(run, loss="squared", stop_value=p.squared_stop_loss) for run in main]
    as_long = {"max_epochs": round(p.max_updates * lowest / p.linear_rate)}  # in time, learning rate times updates
    linear_model = base_config(p, **fixed | as_long | {"width": 1.0}, model=LINEAR)
    linear = grid(linear_model, learning_rate=[p.linear_rate], seed=p.seeds)
    return with_own_images(main + widths + closer + squared + linear)


def bounds(p: SimpleNamespace) -> list[RunConfig]:
    """Return runs that measure the bound of Theorem 5.1: the first seed of the main network, on both losses."""
    runs = [run for run in descent(p) if run.model == p.model and run.width == p.widths[0] and run.input_scale == 1]
    return measured_at_end(runs)


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return all runs of the chapter."""
    return descent(p) + bounds(p)


BELOW_THE_EDGE = Guard(
    "start",
    "The linear model starts below 2/η: above it nothing can sharpen.",
    mean_over_runs(LINEAR_MODEL, distance_at_start, "λ_max η / 2 at the start"),
    below(1),
)
CLAIM = Claim(
    chapter="08_progressive_sharpening",
    intervention="learning rate, batch size",
    sentence=(
        "Under gradient descent λ_max rises until it reaches 2/η and then hovers there, and the input-output "
        "Jacobian grows along with it."
    ),
    source="MacDonald et al. 2023, section 5; Cohen et al. 2021, section 3",
    experiment=experiment,
    predictions=(
        Prediction(
            "progressive sharpening",
            "λ_max at least doubles between initialisation and its peak.",
            mean_over_runs(MAIN, rise, SHARPENS),
            above(1),
            "λ_max rises until 2/η (Cohen et al. 2021)",
        ),
        Prediction(
            "edge of stability",
            "Having reached 2/η, λ_max stays close to it until the data are fitted, at every learning rate.",
            mean_over_runs(BY_RATE, hover, "λ_max η / 2 where it is farthest").of_block(farthest_from_edge),
            between(0.8, 1.5),
            "hovers at, or just above, 2/η (Cohen et al. 2021)",
            comparisons=3,  # learning rates
        ),
        Prediction(
            "edge of stability (squared loss)",
            "So it does on the squared loss, to the end of training.",
            mean_over_runs(SQUARED, hover, "λ_max η / 2 where it is farthest").of_block(farthest_from_edge),
            between(0.8, 1.5),
            "the same, without the collapse (Cohen et al. 2021)",
            comparisons=3,  # learning rates
        ),
        Prediction(
            "Jacobian growth",
            "The largest Jacobian norm over the training images grows.",
            mean_over_runs(MAIN, jacobian_growth, GROWS),
            above(0),
            "grows from a low start (Figure 1)",
            smallest=0.5,
        ),
        Prediction(
            "together",
            "On the way to 2/η, λ_max grows fast when the Jacobian norm does.",
            mean_over_runs(MAIN, rise_together, "Kendall's τ of their growth along a run"),
            above(0),
            "sharpening coincides with Jacobian growth (section 5)",
            smallest=0.2,
        ),
        Prediction(
            "Jacobian (closer inputs)",
            "Inputs that are closer together make the Jacobian norm grow more,",
            from_closer_inputs(jacobian_growth, GROWS),
            above(0),
            "increases the growth rate of the Jacobian norm (section 5, appendix C.2)",
            smallest=0.25,
        ),
        Prediction(
            "sharpness (closer inputs)",
            "and λ_max rises no more for it, by less than a quarter of a doubling.",
            from_closer_inputs(rise, SHARPENS),
            below(0.25),
            "does not necessarily increase sharpening (section 5, appendix C.2)",
        ),
        Prediction(
            "width",
            "A wider network sharpens less.",
            Statistic(Study(), width_slope, f"{SHARPENS} per decade of width"),
            below(0),
            "wide networks sharpen less (section 5)",
            smallest=0.5,
        ),
        Prediction(
            "sharpness (linear model)",
            "A linear model does not sharpen: λ_max rises by less than a quarter of a doubling.",
            mean_over_runs(LINEAR_MODEL, rise, SHARPENS),
            below(0.25),
            "none at all (section 5)",
            guards=(BELOW_THE_EDGE,),
        ),
        Prediction(
            "Jacobian (linear model)",
            "The linear model's Jacobian norm grows all the same.",
            mean_over_runs(LINEAR_MODEL, jacobian_growth, GROWS),
            above(0),
            "must grow (Theorem 5.1)",
            smallest=0.5,
        ),
    ),
)
