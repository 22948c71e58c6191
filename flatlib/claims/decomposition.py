r"""What a change of sharpness is made of: training loss, scale of the weights, and the rest.

The curvature of the cross-entropy falls with its loss, and with batch norm it falls with the square of the weights'
length, while the function does not change. So write

    λ_max = L · |w|⁻² · r,    log₂ λ_max = log₂ L - 2 log₂ |w| + log₂ r,

L the training loss and r the rest, which an intervention has to change if it is to be more than a change of the other
two. Without batch norm the function depends on the weights' length, and r = λ_max / L.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import nan

import pandas as pd

from flatlib.claims import adam_vs_sgd, batch_norm, minimum_sharpness, regularisers, weight_decay
from flatlib.claims.dropout import DROPOUT
from flatlib.claims.linear_scaling import FIXED
from flatlib.claims.sam import SAM
from flatlib.claims.study import Study
from flatlib.errors import FlatlibError
from flatlib.stats import Interval, bootstrap_mean

BATCH_NORM = "_bn"  # the ending of a network's name that says it has batch norm
PARTS = {"sharpness": "λ_max", "loss": "training loss", "scale": "length of the weights", "rest": "the rest"}
AT_EQUAL_LOSS = "λ_max, at equal training loss"
FREE = "scale_free"  # lambda_max x |w|^2: loss and rest together
END, AT_LOSS = "", "_at_loss"  # endings of the columns: where training ended, where the training loss was the same
MOMENTS = {END: "end", AT_LOSS: "equal loss"}
COLUMNS = ("intervention", "chapter", "scale", "when", "part")


@dataclass(frozen=True)
class Intervention:
    """Two settings of a chapter that are compared: the strongest and the weakest.

    Attributes:
        name: What is changed.
        chapter: The chapter whose runs are compared.
        study: Which runs count, and which of them are compared with each other.
        strong: A condition on columns for the strongest setting, evaluated within each block of the study.
        weak: Likewise, for the weakest.
    """

    name: str
    chapter: str
    study: Study
    strong: str
    weak: str


def largest(column: str) -> tuple[str, str]:
    """Return the conditions that a column has its largest and its smallest value, which differ."""
    low, high = f"{column}.min()", f"{column}.max()"
    return f"{column} == {high} and {high} > {low}", f"{column} == {low} and {high} > {low}"


def regulariser(name: str) -> Intervention:
    """Return a regulariser of the network with batch norm at its strongest against none."""
    strongest = f"regulariser == '{name}' and strength == strength[regulariser == '{name}'].max()"
    none = f"regulariser == '{regularisers.NONE}'"
    called = "SAM, batch norm" if name == "SAM" else name
    study = regularisers.PENALTIES if name == regularisers.PENALTY else regularisers.REGULARISERS
    return Intervention(called, "11_regularisers", study, strongest, none)


RATES = Study(("batch_size", "learning_rate"), blocks=("batch_size",))
BATCHES = Study(("batch_size", "learning_rate"), blocks=("learning_rate",))
RADII = Study(SAM.settings, blocks=("batch_size", "learning_rate"))
INTERVENTIONS = (
    Intervention("learning rate", "01_lr_batch", RATES, *largest("learning_rate")),
    Intervention("smaller batch", "01_lr_batch", BATCHES, *reversed(largest("batch_size"))),
    Intervention("learning rate and batch", "02_linear_scaling", FIXED, *largest("learning_rate")),
    Intervention("SAM", "03_sam", RADII, *largest("sam_rho")),
    Intervention("dropout", "04_dropout", DROPOUT, *largest("dropout")),
    Intervention("batch norm", "05_batch_norm", batch_norm.SAME_RATE, "normalized", "not normalized"),
    Intervention("weight decay", "06_weight_decay", weight_decay.DECAY, *largest("weight_decay")),
    Intervention("averaged Adam", "07_adam_vs_sgd", adam_vs_sgd.MAIN, *adam_vs_sgd.METHODS),
    Intervention("SAM, six optimizers", "10_minimum_sharpness", minimum_sharpness.PAIRED, *largest("sam_rho")),
    *(regulariser(name) for name in (*regularisers.OTHERS, "SAM", regularisers.PENALTY)),
)


def with_parts(runs: pd.DataFrame, when: str) -> pd.DataFrame:
    """Add the factors of lambda_max, at the end of training or at equal training loss, as columns named by `PARTS`.

    The length of the weights is a factor only where every network that is compared has batch norm; else it is NaN.
    """
    sharpness, loss, length = (runs[name + when].astype(float) for name in ("lambda_max", "train_loss", "weight_norm"))
    free = runs["model"].str.endswith(BATCH_NORM).all()  # of the weights' length, in every network that is compared
    scale = length**-2 if free else length * nan
    rest = sharpness / loss / (scale if free else 1.0)
    return runs.assign(sharpness=sharpness, loss=loss, scale=scale, rest=rest, scale_free=sharpness / scale)


def decompose(intervention: Intervention, runs: pd.DataFrame, when: str = END) -> dict[str, Interval]:
    """Return by how many doublings an intervention changes lambda_max and each of its factors.

    The estimates of the factors add up to that of lambda_max.

    Args:
        intervention: One of `INTERVENTIONS`.
        runs: The table of its chapter at one scale.
        when: `END` or `AT_LOSS`.

    Returns:
        The mean over seeds with its interval, for each of `PARTS` and for `FREE` that the networks have.

    Raises:
        FlatlibError: If the runs lack what is compared.
        KeyError: If the runs lack a measure.
    """
    study, compared = intervention.study, (intervention.strong, intervention.weak)
    parted = with_parts(study.select(runs), when)
    kept = Study(blocks=study.blocks)
    per_seed = {part: kept.log2_ratio(part, *compared)(parted).dropna() for part in (*PARTS, FREE)}
    return {part: bootstrap_mean(numbers) for part, numbers in per_seed.items() if len(numbers)}


def decompositions(tables: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Decompose every intervention at every scale that has its runs.

    Args:
        tables: Tables of runs by chapter and scale.

    Returns:
        One row per intervention, scale, moment (``when``: ``"end"`` or ``"equal loss"``) and part, with estimate, low,
        high and n.
    """
    rows = []
    for one in INTERVENTIONS:
        of_chapter = {scale: runs for (chapter, scale), runs in tables.items() if chapter == one.chapter}
        for (scale, runs), (when, name) in product(of_chapter.items(), MOMENTS.items()):
            with suppress(FlatlibError, KeyError):  # a scale without both settings, or without values at equal loss
                place = {"intervention": one.name, "chapter": one.chapter, "scale": scale, "when": name}
                rows += [place | {"part": part} | vars(it) for part, it in decompose(one, runs, when).items()]
    return pd.DataFrame(rows, columns=[*COLUMNS, "estimate", "low", "high", "n"])


def readable_decompositions(found: pd.DataFrame) -> pd.DataFrame:
    """Format a table of `decompositions` for a page: a row per intervention, scale and moment."""
    texts = [str(Interval(row.estimate, row.low, row.high, row.n)).partition(", n =")[0] for row in found.itertuples()]
    parts = found["part"].map(PARTS | {FREE: "λ_max |w|²"})
    table = found.assign(text=texts, part=parts).pivot_table(
        index=list(COLUMNS[:-1]), columns="part", values="text", aggfunc="first", sort=False
    )
    return table.fillna("").reset_index().drop(columns="chapter").rename_axis(columns=None)


def summands(found: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Return the rows of `decompositions` that `flatlib.figures.contributions` draws for one scale.

    These are the parts at the end of training, and lambda_max at equal training loss under the name of `AT_EQUAL_LOSS`.
    """
    here = found[found["scale"] == scale].rename(columns={"intervention": "row"})
    end = here[(here["when"] == MOMENTS[END]) & here["part"].isin(PARTS)]
    equal = here[(here["when"] == MOMENTS[AT_LOSS]) & (here["part"] == "sharpness")]
    return pd.concat([end.assign(part=end["part"].map(PARTS)), equal.assign(part=AT_EQUAL_LOSS)], ignore_index=True)
