"""Claim 11: over regularisers, the Jacobian norm tracks the generalization gap better than the sharpness does.

MacDonald et al. 2023, section 6, Figure 5: label smoothing, augmentation, mixup and SAM, each at several strengths,
beside the same training without. The gap is |training loss - test loss|.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.contrasts import log2_ratio_by_seed, seed_taus
from flatlib.claims.prediction import Claim, Prediction, Rule
from flatlib.claims.rank_correlations import mean_text
from flatlib.claims.selection import complete_cells
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError

SETTINGS = {
    "label smoothing": "label_smoothing",
    "mixup": "mixup",
    "SAM": "sam_rho",
}  # their strengths
AUGMENTATION, NONE = "augmentation", "none"
JACOBIAN, GAP = "jacobian_norm_mean", "loss_gap"


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the name of their regulariser and its strength; of augmentation, how many kinds there are."""
    names, strengths = pd.Series(NONE, index=runs.index), pd.Series(0.0, index=runs.index)
    for name, column in SETTINGS.items():
        names = names.mask(runs[column] > 0, name)
        strengths = strengths.mask(runs[column] > 0, runs[column].astype(float))
    kinds = runs["augmentation"].map(lambda value: len(value.split("+")) if value else 0)
    names, strengths = names.mask(kinds > 0, AUGMENTATION), strengths.mask(kinds > 0, kinds.astype(float))
    return runs.assign(regulariser=names, strength=strengths)


def labels(runs: pd.DataFrame) -> pd.Series:
    """A name for each run's setting: the regulariser and its strength."""
    shown = runs["strength"].map("{:g}".format)
    return (runs["regulariser"] + " " + shown).where(runs["regulariser"] != NONE, NONE)


def trackers(runs: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of every measure with the gap in loss and with the gap in accuracy: mean over seeds, interval."""
    kept = counted(runs)
    measures = ("jacobian_norm_mean", "jacobian_norm", "softmax_jacobian_norm_mean", "softmax_jacobian_norm")
    rows = []
    for measure in (*measures, "lambda_max", "gradient_norm", "weight_norm"):
        shown = [mean_text(seed_taus(kept, measure, gap)) for gap in (GAP, "generalization_gap")]
        rows.append((measure.replace("_", " "), *shown))
    return pd.DataFrame(rows, columns=["measure", "τ with the loss gap", "τ with the accuracy gap"])


def counted(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete settings."""
    kept = complete_cells(named(runs), ["regulariser", "strength"])
    if kept.empty:
        raise FlatlibError("no setting counts: each lost a run")
    return kept


def order(runs: pd.DataFrame, measure: str) -> pd.Series:
    """Per seed: Kendall's tau of a measure and the gap over all regularisers and strengths."""
    return seed_taus(counted(runs), measure, GAP)


def change(runs: pd.DataFrame, names: list[str], measure: str) -> pd.Series:
    """Per seed: doublings of a measure from no regulariser to the weakest strength of these, as a mean over them."""
    kept = counted(runs)
    weakest = kept["strength"] == kept.groupby("regulariser")["strength"].transform("min")
    chosen = kept["regulariser"].isin(names) & weakest
    if set(kept.loc[chosen, "regulariser"]) != set(names) or not (kept["regulariser"] == NONE).any():
        raise FlatlibError(f"{', '.join(names)}: not recorded beside training without")
    return log2_ratio_by_seed(kept, measure, chosen, kept["regulariser"] == NONE)


def lowers_jacobian(name: str) -> Prediction:
    """The prediction that one regulariser lowers the Jacobian norm."""
    return Prediction(
        f"Jacobian ({name})",
        f"{name[0].upper()}{name[1:]}, at its weakest, lowers the mean Jacobian norm.",
        lambda runs: change(runs, [name], JACOBIAN),
        "doublings of the Jacobian norm",
        Rule(high=0),
        "regularised, at least initially (Figure 5)",
    )


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: no regulariser, then every strength of each, one at a time, x seed."""
    base = RunConfig(
        dataset=p.dataset,
        train_size=p.train_size or None,
        model=p.model,
        width=p.width,
        batch_size=p.batch_size,
        learning_rate=p.learning_rate,
        optimizer="heavy_ball",
        momentum=0.9,
        weight_decay=5e-4,
        stop="epochs",
        max_epochs=p.epochs,
        measure_size=p.measure_size,
        batch_norm=p.batch_norm,
        measures=(
            *("performance", "lambda_max", "jacobian_norm", "softmax_jacobian_norm"),
            *("gradient_norm", "weight_norm"),
        ),
    )
    settings = [base]
    settings += [replace(base, label_smoothing=value) for value in p.smoothings]
    settings += [replace(base, augmentation=tuple(value.split("+"))) for value in p.augmentations]
    settings += [replace(base, mixup=value) for value in p.mixups]
    settings += [replace(base, sam_rho=value) for value in p.rhos]
    return [replace(config, seed=seed) for config in settings for seed in p.seeds]


CLAIM = Claim(
    experiment=experiment,
    chapter="11_regularisers",
    intervention="regulariser",
    sentence=(
        "Label smoothing, augmentation, mixup and SAM all lower the input-output Jacobian; its norm tracks the "
        "generalization gap better than λ_max does, which only SAM lowers."
    ),
    source="MacDonald et al. 2023, section 6, Figure 5",
    predictions=(
        Prediction(
            "Jacobian and gap",
            "Over all regularisers and strengths, the Jacobian norm goes with the gap.",
            lambda runs: order(runs, JACOBIAN),
            "Kendall's τ of the Jacobian norm and the loss gap",
            Rule(low=0),
            "strongly correlated (Figure 5)",
        ),
        Prediction(
            "Jacobian against sharpness",
            "It does so better than λ_max.",
            lambda runs: order(runs, JACOBIAN) - order(runs, "lambda_max"),
            "difference of Kendall's τ with the loss gap",
            Rule(low=0),
            "superior correlation in all cases (section 6)",
        ),
        *(lowers_jacobian(name) for name in ("label smoothing", AUGMENTATION, "mixup", "SAM")),
        Prediction(
            "sharpness (SAM)",
            "SAM lowers λ_max.",
            lambda runs: change(runs, ["SAM"], "lambda_max"),
            "doublings of λ_max",
            Rule(high=0),
            "sharpness regularised (section 6)",
        ),
        Prediction(
            "sharpness (the others)",
            "The others do not: on average by less than half a doubling.",
            lambda runs: change(runs, ["label smoothing", AUGMENTATION, "mixup"], "lambda_max"),
            "doublings of λ_max",
            Rule(low=-0.5),
            "only SAM regularises sharpness (section 6)",
        ),
    ),
)
