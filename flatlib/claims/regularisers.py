"""Claim 11: over regularisers, the Jacobian norm tracks the generalization gap better than the sharpness does.

MacDonald et al. 2023, section 6, Figure 5: label smoothing, augmentation, mixup and SAM, each at several strengths,
beside the same training without. The gap is |training loss - test loss|.
"""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd

from flatlib.claims.prediction import Claim, Guard, Prediction, above, below
from flatlib.claims.settings import JACOBIANS, SIZES, base_config, with_own_images
from flatlib.claims.study import Statistic, Study
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.stats import format_mean, seed_log2_ratios

PENALTY = "Jacobian penalty"
STRENGTHS = {"label smoothing": "label_smoothing", "mixup": "mixup", "SAM": "sam_rho", PENALTY: "jacobian_penalty"}
AUGMENTATION, NONE = "augmentation", "none"
OTHERS = ("label smoothing", AUGMENTATION, "mixup")  # than SAM
GAPS = {"loss_gap": "loss", "generalization_gap": "accuracy"}
JUDGED = {"logits'": "jacobian_norm_mean", "softmaxed": "softmax_jacobian_norm"}  # the mean, and Figure 1's largest


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


def without_penalty(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the paper's comparison, which has no penalty on the Jacobian."""
    return named(runs[runs["jacobian_penalty"] == 0])


def with_penalty(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a penalty on the Jacobian, and those with no regulariser."""
    runs = named(runs)
    return runs[runs["regulariser"].isin([PENALTY, NONE])]


REGULARISERS = Study(settings=("regulariser", "strength"), prepare=without_penalty)
PENALTIES = replace(REGULARISERS, prepare=with_penalty)


def trackers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau of every measure with the gap in loss and in accuracy: mean over seeds, interval."""
    if REGULARISERS.select(runs).empty:
        raise FlatlibError("no setting counts: each lost a run")
    rows = []
    jacobians = [f"{name}{ending}" for name in ("jacobian_norm", "softmax_jacobian_norm") for ending in ("_mean", "")]
    for measure in (*jacobians, "lambda_max", "gradient_norm", "weight_norm"):
        taus = [REGULARISERS.kendall(measure, gap)(runs) for gap in GAPS]
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

    return Statistic(PENALTIES if PENALTY in names else REGULARISERS, per_seed, unit)


def size(numbers: pd.Series) -> pd.Series:
    """Return the size of a correlation: a measure that orders the gaps the wrong way round tracks them as well."""
    return numbers.abs()


def weakest_fit(names: tuple[str, ...]) -> Statistic:
    """Return by how many points of training accuracy the worst of these, at its weakest, is behind no regulariser."""

    def per_seed(kept: pd.DataFrame) -> pd.Series:
        weakest = kept["strength"] == kept.groupby("regulariser")["strength"].transform("min")
        fits = kept[weakest].pivot_table(index="seed", columns="regulariser", values="train_accuracy", aggfunc="mean")
        if not {NONE, *names} <= set(fits):
            raise FlatlibError(f"{', '.join(names)}: not recorded, or not the same training without")
        return 100 * (fits[list(names)].min(axis=1) - fits[NONE])

    study = PENALTIES if PENALTY in names else REGULARISERS
    return Statistic(study, per_seed, "points of training accuracy, regularised minus not")


def fit(*names: str) -> Guard:
    """Return the guard that networks with these regularisers were trained at all."""
    listed = ", ".join(names)
    statement = f"With {listed}, at the weakest, the training images are fitted as well, within ten points."
    return Guard(f"fit ({listed})", statement, weakest_fit(names), above(-10))


def lowest_fit(kept: pd.DataFrame) -> pd.Series:
    """Return each seed's lowest training accuracy of any setting, in percent."""
    return 100 * kept.groupby("seed")["train_accuracy"].min()


LEARNED = Guard(
    "training",
    "Every network has learned: it is right on more than half of its training images.",
    Statistic(REGULARISERS, lowest_fit, "% training accuracy"),
    above(50),
)


PENALISED = Guard(
    "penalty",
    "The penalty, at its weakest, lowers the logits' Jacobian norm.",
    change((PENALTY,), "jacobian_norm_mean", "doublings of the logits' Jacobian norm"),
    below(0),
)


def tracks(which: str, column: str, gap: str, named: str) -> list[Prediction]:
    """Return the predictions that one Jacobian norm goes with one gap, and tracks it better than lambda_max does."""
    tau = REGULARISERS.kendall(column, gap)
    sizes = [each.map_blocks(size, f"size of Kendall's τ with the {named} gap") for each in (tau, rival(gap))]
    return [
        Prediction(
            f"{which} Jacobian and {named} gap",
            f"Over all regularisers and strengths, the {which} Jacobian norm goes with the {named} gap.",
            tau,
            above(0),
            "strongly correlated (Figure 5)",
            guards=(LEARNED,),
            smallest=0.2,
        ),
        Prediction(
            f"{which} Jacobian against sharpness ({named} gap)",
            "It tracks this gap better than λ_max does.",
            sizes[0] - sizes[1],
            above(0),
            "superior correlation in all cases (section 6, Figure 5)",
            guards=(LEARNED,),
        ),
    ]


def rival(gap: str) -> Statistic:
    """Return Kendall's tau of lambda_max and a gap."""
    return REGULARISERS.kendall("lambda_max", gap)


def lowers_jacobian(which: str, column: str, name: str) -> Prediction:
    """Return the prediction that one regulariser lowers one Jacobian norm."""
    statement = f"{name[0].upper()}{name[1:]}, at its weakest, lowers the {which} Jacobian norm."
    falls = change((name,), column, f"doublings of the {which} Jacobian norm")
    found, guards = "regularised, at least initially (Figure 5)", (fit(name),)
    return Prediction(f"{which} Jacobian ({name})", statement, falls, below(0), found, guards, smallest=0.5)


def augmented(base: RunConfig, kinds: tuple[str, ...]) -> RunConfig:
    """Return the run with these kinds of augmentation; crops shift by 1 of the digits' 8 pixels, as by 4 of 32."""
    small = base.dataset == "digits" and "crop" in kinds
    return replace(base, augmentation=kinds, crop_padding=1 if small else base.crop_padding)


def experiment(p: SimpleNamespace) -> list[RunConfig]:
    """Return the runs: no regulariser, then every strength of each, one at a time, x seed."""
    fixed = {"optimizer": "heavy_ball", "momentum": 0.9, "weight_decay": 5e-4, "stop": "epochs", "max_epochs": p.epochs}
    plain = ("cross_entropy", "cross_entropy_lambda_max")  # where the training loss is a smoothed one
    measures = ("performance", *plain, "lambda_max", "normalized_adaptive_sharpness", *JACOBIANS, *SIZES)
    base = base_config(p, **fixed, batch_norm="train", measures=measures)
    settings = [base]
    settings += [replace(base, label_smoothing=value) for value in p.smoothings]
    settings += [augmented(base, tuple(value.split("+"))) for value in p.augmentations]
    settings += [replace(base, mixup=value) for value in p.mixups]
    settings += [replace(base, sam_rho=value) for value in p.rhos]
    settings += [replace(base, jacobian_penalty=value) for value in p.penalties]
    return with_own_images([replace(config, seed=seed) for config in settings for seed in p.seeds])


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
        *(
            prediction
            for which, column in JUDGED.items()
            for gap, named in GAPS.items()
            for prediction in tracks(which, column, gap, named)
        ),
        *(lowers_jacobian(which, column, name) for which, column in JUDGED.items() for name in (*OTHERS, "SAM")),
        Prediction(
            "sharpness (SAM)",
            "SAM lowers λ_max.",
            change(("SAM",), "lambda_max", "doublings of λ_max"),
            below(0),
            "sharpness regularised (section 6, Figure 5)",
            guards=(fit("SAM"),),
            smallest=0.5,
        ),
        Prediction(
            "sharpness (the others)",
            "The others do not: on average by less than half a doubling.",
            change(OTHERS, "lambda_max", "doublings of λ_max"),
            above(-0.5),
            "only SAM regularises sharpness (section 6, Figure 5)",
            guards=(fit(*OTHERS),),
        ),
        Prediction(
            "sharpness (Jacobian penalty)",
            "Adding a penalty on the Jacobian, and nothing else, lowers λ_max.",
            change((PENALTY,), "lambda_max", "doublings of λ_max"),
            below(0),
            "under conditions, a larger Jacobian raises λ_max (Ansatz 3.1); no intervention reported",
            guards=(fit(PENALTY), PENALISED),
            smallest=0.5,
        ),
        Prediction(
            "gap (Jacobian penalty)",
            "It lowers the loss gap.",
            change((PENALTY,), "loss_gap", "doublings of the loss gap"),
            below(0),
            "the Jacobian controls generalization (section 6); no intervention is reported",
            guards=(fit(PENALTY), PENALISED),
            smallest=0.25,
        ),
    ),
)
