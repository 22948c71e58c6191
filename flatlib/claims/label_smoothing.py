"""Claim 9: the closer the targets, the less the Jacobian grows and the less the sharpness rises.

MacDonald et al. 2023, section 5, Figure 1. Cross-entropy's curvature collapses once the data are fitted, so what is
compared is the peak along a run, and the value at equal training accuracy, never the last one. A run that ends while a
measure still rises has no peak of it.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.jacobian_bound import MEASURES, OF_MODEL, measured_at_end
from flatlib.claims.prediction import Claim, Guard, Prediction, above, below, between
from flatlib.claims.setting_means import MISSING, setting_means
from flatlib.claims.settings import base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.stats import seed_slopes

JACOBIAN = OF_MODEL["cross_entropy"]
ACCURATE = 0.9  # training accuracy at which runs are compared
REACHED = 0.98  # of a run's peak that its first four fifths must have: what still rises at the end has no peak yet


def summarized(runs: pd.DataFrame, loss: str = "cross_entropy") -> pd.DataFrame:
    """Return the runs on one loss with each measure's peak along the run, and its value at equal training accuracy.

    The Jacobian is that of the model which the loss compares with the targets: softmaxed for the cross-entropy. Equal
    accuracy is the first tracked point with a training accuracy of at least ``ACCURATE``; NaN for a run that never
    gets there. Diverged runs are excluded.
    """
    kept = runs[(runs["loss"] == loss) & (runs["status"] != "diverged") & runs["trajectory"].map(bool)]
    if kept.empty:
        raise FlatlibError("no run was tracked")
    points = [pd.DataFrame(trajectory).astype(float) for trajectory in kept["trajectory"]]
    accurate = [run[run["train_accuracy"] >= ACCURATE].head(1) for run in points]
    columns = {}
    for name, measure in (("lambda_max", "lambda_max"), ("jacobian", OF_MODEL[loss])):
        columns[f"peak_{name}"] = [run[measure].max() for run in points]
        columns[f"has_peak_{name}"] = [has_peak(run[measure]) for run in points]
        columns[f"{name}_at_accuracy"] = [first[measure].mean() for first in accurate]
    return kept.assign(**columns)


def has_peak(values: pd.Series) -> bool:
    """Return whether a measure stopped rising before the last fifth of a run."""
    return bool(values.iloc[: max(4 * len(values) // 5, 1)].max() >= REACHED * values.max())


SMOOTHING = Study(blocks=("learning_rate",), prepare=summarized)
SQUARED = replace(SMOOTHING, prepare=lambda runs: summarized(runs, "squared"))


def order(column: str, named: str, study: Study = SMOOTHING) -> Statistic:
    """Return Kendall's tau of the label smoothing and a column of :func:`summarized`, at fixed learning rate; a seed
    counts if all of its runs have a value."""
    tau = study.kendall("label_smoothing", column)
    return replace(tau, per_block=lambda runs: tau.per_block(complete(runs, column))).measured_in(
        f"Kendall's τ of smoothing and {named}"
    )


def complete(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the table with the column missing for seeds that have a run without a value."""
    return runs.assign(**{column: runs[column].where(runs[column].notna().groupby(runs["seed"]).transform("all"))})


def proportion(runs: pd.DataFrame) -> pd.Series:
    """Return each seed's exponent a in peak Jacobian norm ~ (1 - smoothing)^a; Theorem 5.1 has a = 1."""
    return seed_slopes(runs.assign(distance=1 - runs["label_smoothing"]), "distance", "peak_jacobian", logy=True)


def peak_is_inside(measure: str, named: str, study: Study = SMOOTHING) -> Guard:
    """Return the guard that runs go on until a measure has stopped rising: else their end is compared, no peak."""
    share = Statistic(study, lambda block: block.groupby("seed")[f"has_peak_{measure}"].mean(), "share of the runs")
    return Guard(f"peak of {named}", f"{named} has stopped rising before the last fifth of a run.", share, above(0.9))


def against_distance(runs: pd.DataFrame, loss: str = "cross_entropy") -> pd.DataFrame:
    """Return the peak Jacobian norm beside the distance 1 - s of the targets: a row for each smoothing.

    The last column is the share of the runs in which the norm has stopped rising.
    """
    try:
        kept = summarized(runs, loss)
    except (FlatlibError, KeyError):
        return pd.DataFrame({"peak Jacobian norm": [MISSING]})
    peaks = kept.set_index(["learning_rate", "seed"])["peak_jacobian"]
    unsmoothed = peaks[(kept["label_smoothing"] == 0).to_numpy()]
    kept = kept.assign(
        distance=1 - kept["label_smoothing"],
        ratio=(peaks / unsmoothed.reindex(peaks.index)).to_numpy(),
        has_peak=kept["has_peak_jacobian"].astype(float),
    )
    columns = {"peak Jacobian norm": "peak_jacobian", "over that without smoothing": "ratio"}
    table = setting_means(kept, ["label_smoothing", "distance"], columns)
    found = kept.groupby("label_smoothing")["has_peak"].mean().map("{:.0%}".format)
    return table.rename(columns={"distance": "1 - s"}).assign(**{"has stopped rising": found.to_numpy()})


def descent(p: SimpleNamespace) -> list[RunConfig]:
    """Return full-batch runs: learning rate x smoothing x seed, to a small loss or to a limit of updates."""
    tracked = {"track": ("train_loss", "lambda_max", "jacobian_norm", JACOBIAN), "measures": ("performance",)}
    stop = {"stop": "train_loss", "stop_value": p.stop_loss, "max_epochs": p.max_updates, "check_every": p.track_every}
    base = base_config(p, batch_size=0, **tracked, **stop, max_updates=None)
    return with_own_images(grid(base, learning_rate=p.learning_rates, label_smoothing=p.smoothings, seed=p.seeds))


def squared(p: SimpleNamespace) -> list[RunConfig]:
    """Return the same runs on the squared loss, with the bound of Theorem 5.1 at the end.

    Its curvature in the outputs is the same for all targets, so that every run starts alike. The learning rate is
    halved: a trial at the full one started close to 2 / learning rate, where nothing can sharpen.
    """
    ending = {"loss": "squared", "stop_value": p.squared_stop_loss, "measures": ("performance", *MEASURES)}
    return [replace(run, learning_rate=run.learning_rate / 2, **ending) for run in descent(p)]


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return all runs of the chapter; of the cross-entropy, one seed is trained again to measure the bound."""
    return descent(p) + squared(p) + measured_at_end(descent(p))


CLAIM = Claim(
    chapter="09_label_smoothing",
    intervention="label smoothing",
    sentence="Label smoothing brings the targets closer together: the Jacobian grows less, and λ_max rises less.",
    source="MacDonald et al. 2023, section 5, Figure 1",
    experiment=experiment,
    predictions=(
        Prediction(
            "sharpness",
            "The peak of λ_max along training falls with the label smoothing.",
            order("peak_lambda_max", "peak λ_max"),
            below(-0.5),
            "less sharpening (Figure 1)",
            guards=(peak_is_inside("lambda_max", "λ_max"),),
        ),
        Prediction(
            "Jacobian norm",
            "The peak of the Jacobian norm falls with it.",
            order("peak_jacobian", "peak Jacobian norm"),
            below(-0.5),
            "less growth (Figure 1)",
            guards=(peak_is_inside("jacobian", "the Jacobian norm"),),
        ),
        Prediction(
            "Jacobian norm (in proportion)",
            "It falls in proportion to the distance 1 - s between the targets.",
            Statistic(SMOOTHING, proportion, "exponent of 1 - s in the peak Jacobian norm"),
            between(0.7, 1.3),
            "exponent 1 (Theorem 5.1)",
            guards=(peak_is_inside("jacobian", "the Jacobian norm"),),
        ),
        Prediction(
            "sharpness (equal accuracy)",
            "At equal training accuracy, λ_max falls with the label smoothing as well.",
            order("lambda_max_at_accuracy", "λ_max at 90 % training accuracy"),
            below(-0.5),
            "not reported",
        ),
        Prediction(
            "Jacobian norm (equal accuracy)",
            "And so does the Jacobian norm.",
            order("jacobian_at_accuracy", "Jacobian norm at 90 % training accuracy"),
            below(-0.5),
            "not reported",
        ),
        Prediction(
            "sharpness (squared loss)",
            "On the squared loss, too, the peak of λ_max falls with the label smoothing.",
            order("peak_lambda_max", "peak λ_max on the squared loss", SQUARED),
            below(-0.5),
            "not reported; less sharpening, by Theorem 5.1 and Ansatz 3.1",
            guards=(peak_is_inside("lambda_max", "λ_max on the squared loss", SQUARED),),
        ),
        Prediction(
            "Jacobian norm (squared loss)",
            "And so does the peak of the Jacobian norm of the network itself.",
            order("peak_jacobian", "peak Jacobian norm on the squared loss", SQUARED),
            below(-0.5),
            "not reported; less growth, by Theorem 5.1",
            guards=(peak_is_inside("jacobian", "the Jacobian norm on the squared loss", SQUARED),),
        ),
    ),
)
