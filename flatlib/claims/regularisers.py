"""Claim 11: over regularisers, the Jacobian norm tracks the generalization gap better than the sharpness does.

MacDonald et al. 2023, section 6, Figure 5: label smoothing, augmentation, mixup and SAM, each at several strengths,
beside the same training without. The gap is |training loss - test loss|.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.prediction import Claim, Prediction, above, below
from flatlib.claims.settings import JACOBIANS, SIZES, base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.stats import format_mean, seed_log2_ratios

PENALTY = "Jacobian penalty"
STRENGTHS = {"label smoothing": "label_smoothing", "mixup": "mixup", "SAM": "sam_rho", PENALTY: "jacobian_penalty"}
AUGMENTATION, NONE = "augmentation", "none"
OTHERS = ("label smoothing", AUGMENTATION, "mixup")  # than SAM
JACOBIAN, GAP = "jacobian_norm_mean", "loss_gap"


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the name of each run's regulariser and its strength; of augmentation, the number of kinds."""
    names, strengths = pd.Series(NONE, index=runs.index), pd.Series(0.0, index=runs.index)
    kinds = runs["augmentation"].map(lambda value: len(value.split("+")) if value else 0)
    for name, values in [*((name, runs[column]) for name, column in STRENGTHS.items()), (AUGMENTATION, kinds)]:
        names, strengths = names.mask(values > 0, name), strengths.mask(values > 0, values.astype(float))
    return runs.assign(regulariser=names, strength=strengths)


def labels(runs: pd.DataFrame) -> pd.Series:
    """Return a name for each run's setting: the regulariser and its strength."""
    shown = runs["strength"].map("{:g}".format)
    return (runs["regulariser"] + " " + shown).where(runs["regulariser"] != NONE, NONE)


REGULARISERS = Study(settings=("regulariser", "strength"), prepare=named)
TRACKS = REGULARISERS.kendall(JACOBIAN, GAP)
BETTER = (TRACKS - REGULARISERS.kendall("lambda_max", GAP)).measured_in("difference of Kendall's τ with the loss gap")


def trackers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau of every measure with the gap in loss and in accuracy: mean over seeds, interval."""
    if REGULARISERS.select(runs).empty:
        raise FlatlibError("no setting counts: each lost a run")
    rows = []
    jacobians = [f"{name}{ending}" for name in JACOBIANS for ending in ("_mean", "")]
    for measure in (*jacobians, "lambda_max", "gradient_norm", "weight_norm"):
        taus = [REGULARISERS.kendall(measure, gap)(runs) for gap in (GAP, "generalization_gap")]
        rows.append((measure.replace("_", " "), *map(format_mean, taus)))
    return pd.DataFrame(rows, columns=["measure", "τ with the loss gap", "τ with the accuracy gap"])


def change(names: tuple[str, ...], measure: str, unit: str) -> Statistic:
    """Return the doublings of a measure from no regulariser to the weakest strength of these, as a mean over them."""

    def per_seed(kept: pd.DataFrame) -> pd.Series:
        weakest = kept["strength"] == kept.groupby("regulariser")["strength"].transform("min")
        chosen = kept["regulariser"].isin(names) & weakest
        without = kept["regulariser"] == NONE
        if set(kept.loc[chosen, "regulariser"]) != set(names) or not without.any():
            raise FlatlibError(f"{', '.join(names)}: not recorded, or not the same training without")
        return seed_log2_ratios(kept, measure, chosen, without)

    return Statistic(REGULARISERS, per_seed, unit)


def lowers_jacobian(name: str) -> Prediction:
    """Return the prediction that one regulariser lowers the Jacobian norm."""
    statement = f"{name[0].upper()}{name[1:]}, at its weakest, lowers the mean Jacobian norm."
    falls = change((name,), JACOBIAN, "doublings of the Jacobian norm")
    return Prediction(f"Jacobian ({name})", statement, falls, below(0), "regularised, at least initially (Figure 5)")


def augmented(base: RunConfig, kinds: tuple[str, ...], padding: int) -> RunConfig:
    """Return the run with these kinds of augmentation; crops, if they are among them, shift by up to so many pixels."""
    return replace(base, augmentation=kinds, crop_padding=padding if "crop" in kinds else base.crop_padding)


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: no regulariser, then every strength of each, one at a time, x seed."""
    fixed = {"optimizer": "heavy_ball", "momentum": 0.9, "weight_decay": 5e-4, "stop": "epochs", "max_epochs": p.epochs}
    plain = ("cross_entropy", "cross_entropy_lambda_max")  # where the training loss is a smoothed one
    measures = ("performance", *plain, "lambda_max", "normalized_adaptive_sharpness", *JACOBIANS, *SIZES)
    base = base_config(p, **fixed, measures=measures)
    settings = [base]
    settings += [replace(base, label_smoothing=value) for value in p.smoothings]
    padding = getattr(p, "crop_padding", base.crop_padding)
    settings += [augmented(base, tuple(value.split("+")), padding) for value in p.augmentations]
    settings += [replace(base, mixup=value) for value in p.mixups]
    settings += [replace(base, sam_rho=value) for value in p.rhos]
    settings += [replace(base, jacobian_penalty=value) for value in p.penalties]
    return with_own_images(p, [replace(config, seed=seed) for config in settings for seed in p.seeds])


CLAIM = Claim(
    chapter="11_regularisers",
    intervention="regulariser",
    sentence=(
        "Label smoothing, augmentation, mixup and SAM all lower the input-output Jacobian; its norm tracks the "
        "generalization gap better than λ_max does, which only SAM lowers."
    ),
    source="MacDonald et al. 2023, section 6, Figure 5",
    experiment=experiment,
    predictions=(
        Prediction(
            "Jacobian and gap",
            "Over all regularisers and strengths, the Jacobian norm goes with the gap.",
            TRACKS,
            above(0),
            "strongly correlated (Figure 5)",
        ),
        Prediction(
            "Jacobian against sharpness",
            "It does so better than λ_max.",
            BETTER,
            above(0),
            "superior correlation in all cases (section 6)",
        ),
        *(lowers_jacobian(name) for name in (*OTHERS, "SAM")),
        Prediction(
            "sharpness (SAM)",
            "SAM lowers λ_max.",
            change(("SAM",), "lambda_max", "doublings of λ_max"),
            below(0),
            "sharpness regularised (section 6)",
        ),
        Prediction(
            "sharpness (the others)",
            "The others do not: on average by less than half a doubling.",
            change(OTHERS, "lambda_max", "doublings of λ_max"),
            above(-0.5),
            "only SAM regularises sharpness (section 6)",
        ),
    ),
)
