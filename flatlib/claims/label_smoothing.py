"""Claim 9: the closer the targets, the less the Jacobian grows and the less the sharpness rises.

MacDonald et al. 2023, section 5, Figure 1. Cross-entropy's curvature collapses once the data are fitted, so what is
compared is the peak along a run, and the value at equal training accuracy, never the last one.
"""

from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import mean_over_blocks, seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError

JACOBIAN = "softmax_jacobian_norm"
ACCURATE = 0.9  # training accuracy at which runs are compared


def summarized(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that did not diverge, with the peak of each measure and its value at the first tracked point where the
    training accuracy is at least `ACCURATE` (NaN for a run that never gets there)."""
    kept = runs[(runs["status"] != "diverged") & runs["trajectory"].map(bool)]
    if kept.empty:
        raise FlatlibError("no run was tracked")
    points = [pd.DataFrame(trajectory).astype(float) for trajectory in kept["trajectory"]]
    columns = {}
    for measure in ("lambda_max", JACOBIAN):
        columns[f"peak_{measure}"] = [run[measure].max() for run in points]
        columns[f"{measure}_at_accuracy"] = [
            run.loc[run["train_accuracy"] >= ACCURATE, measure].head(1).mean() for run in points
        ]
    return kept.assign(**columns)


def order(runs: pd.DataFrame, column: str) -> pd.Series:
    """Per seed: Kendall's tau of the label smoothing and a column of `summarized`, at fixed learning rate."""
    return mean_over_blocks(
        summarized(runs), ["learning_rate"], lambda group: seed_taus(group, "label_smoothing", column)
    )


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return full-batch runs of equal length: learning rate x smoothing x seed, measured along training."""
    shape = {"activation": p.activation, "depth": p.depth} if p.model == "mlp" else {}
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        **shape,
        batch_size=0,
        microbatch=p.microbatch or None,
        stop="updates",
        max_updates=p.max_updates,
        max_epochs=10_000,
        track=("train_loss", "lambda_max", JACOBIAN),
        track_every=p.track_every,
        measures=("performance",),
    )
    return grid(base, learning_rate=p.learning_rates, label_smoothing=p.smoothings, seed=p.seeds)


CLAIM = Claim(
    experiment=experiment,
    chapter="09_label_smoothing",
    intervention="label smoothing",
    sentence="Label smoothing brings the targets closer together: the Jacobian grows less, and λ_max rises less.",
    source="MacDonald et al. 2023, section 5, Figure 1",
    predictions=(
        Prediction(
            "sharpness",
            "The peak of λ_max along training falls with the label smoothing.",
            lambda runs: order(runs, "peak_lambda_max"),
            "Kendall's τ of smoothing and peak λ_max",
            Rule(high=-0.5),
            "less sharpening (Figure 1)",
        ),
        Prediction(
            "Jacobian norm",
            "The peak of the Jacobian norm falls with it.",
            lambda runs: order(runs, f"peak_{JACOBIAN}"),
            "Kendall's τ of smoothing and peak Jacobian norm",
            Rule(high=-0.5),
            "less growth (Figure 1)",
        ),
        Prediction(
            "sharpness (equal accuracy)",
            "At equal training accuracy, λ_max falls with the label smoothing as well.",
            lambda runs: order(runs, "lambda_max_at_accuracy"),
            "Kendall's τ of smoothing and λ_max at 90 % training accuracy",
            Rule(high=-0.5),
            "not reported",
        ),
        Prediction(
            "Jacobian norm (equal accuracy)",
            "And so does the Jacobian norm.",
            lambda runs: order(runs, f"{JACOBIAN}_at_accuracy"),
            "Kendall's τ of smoothing and Jacobian norm at 90 % training accuracy",
            Rule(high=-0.5),
            "not reported",
        ),
    ),
)
