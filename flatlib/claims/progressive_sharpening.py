"""Claim 8: sharpness rises until 2 / learning rate and stays there, and the input-output Jacobian grows with it.

MacDonald et al. 2023, section 5, on the phenomenon of Cohen et al. 2021. All statistics read trajectories, up to where
the training loss first falls to ``FITTED``: cross-entropy loses its curvature once the data are fitted.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.settings import base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.stats import format_mean, kendall_tau, seed_slopes

FITTED = 0.3  # training loss, in nats, from which the collapse of the cross-entropy's curvature shows
LINEAR = "softmax_regression"
JACOBIAN = "softmax_jacobian_norm"  # the paper's choice: the softmaxed model, largest over the training samples
SHARPENS, GROWS = "doublings of λ_max", "doublings of the Jacobian norm"  # units
TINY = np.finfo(float).tiny  # in place of a sharpness of zero, of a network that broke down
NEVER = "never reached it"  # in a table, where no seed's run reached 2 / learning rate


def on_images(runs: pd.DataFrame, loss: str = "cross_entropy") -> pd.DataFrame:
    """Return the runs on one loss and on images as they are."""
    return runs[(runs["loss"] == loss) & (runs["input_scale"] == 1)]


def main_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the main experiment: the widest range of learning rates belongs to one network."""
    runs = on_images(runs)
    networks = runs.groupby(["model", "width"])["learning_rate"].nunique()
    if networks.empty:
        raise FlatlibError("no run is recorded")
    model, width = networks.idxmax()
    return runs[(runs["model"] == model) & (runs["width"] == width)]


def trajectory(run: pd.Series) -> pd.DataFrame:
    """Return the tracked points of one run, on cross-entropy up to the first one at or below ``FITTED`` (else all)."""
    points = pd.DataFrame(run["trajectory"]).astype(float)
    if run["loss"] != "cross_entropy":
        return points
    fitted = np.flatnonzero(points["train_loss"] <= FITTED)
    return points.iloc[: fitted[0] + 1] if len(fitted) else points


def crossing(points: pd.DataFrame, learning_rate: float) -> int | None:
    """Return the position of the first point at or above 2 / learning rate; None if the run never gets there."""
    above = np.flatnonzero(points["lambda_max"] >= 2 / learning_rate)
    return int(above[0]) if len(above) else None


def doublings(first: float, last: float) -> float:
    """Return how many times `first` doubles to become `last`; NaN unless both are positive and finite."""
    return float(np.log2(last / first)) if 0 < first < np.inf and 0 < last < np.inf else np.nan


def rise(run: pd.Series) -> float:
    """Return the doublings of lambda_max from initialisation to its peak."""
    sharpness = trajectory(run)["lambda_max"]
    return doublings(sharpness.iloc[0], sharpness.max())


def jacobian_growth(run: pd.Series) -> float:
    """Return the doublings of the Jacobian norm from initialisation to the end of the window."""
    norms = trajectory(run)[JACOBIAN]
    return doublings(norms.iloc[0], norms.iloc[-1])


def hover(run: pd.Series) -> float:
    """Return the median of lambda_max x learning rate / 2 from the crossing of 2 / learning rate on; NaN without."""
    points = trajectory(run)
    start = crossing(points, run["learning_rate"])
    return np.nan if start is None else float((points["lambda_max"][start:] * run["learning_rate"] / 2).median())


def rise_together(run: pd.Series) -> float:
    """Return Kendall's tau of the growth of lambda_max and of the Jacobian norm, from point to point along the rise.

    Two quantities that both rise have a tau of one; that of their growth is one if they rise fast at the same time. The
    rise ends at the crossing of 2 / learning rate, or at the peak of lambda_max where it is never crossed.
    """
    points = trajectory(run)
    end = crossing(points, run["learning_rate"])
    rising = points.iloc[: (int(points["lambda_max"].argmax()) if end is None else end) + 1]
    both = np.log2(rising[["lambda_max", JACOBIAN]].where(rising > 0)).diff().dropna()
    return kendall_tau(*both.to_numpy().T) if len(both) > 2 and (both.nunique() > 1).all() else np.nan


def distance_at_start(run: pd.Series) -> float:
    """Return lambda_max x learning rate / 2 at initialisation."""
    return float(trajectory(run)["lambda_max"].iloc[0] * run["learning_rate"] / 2)


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


def experiment(p: SimpleNamespace) -> list[RunConfig]:
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
