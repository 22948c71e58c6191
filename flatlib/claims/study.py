"""Which runs of a table count and which are compared, and their statistics: one number per seed, with its unit."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pandas.errors import UndefinedVariableError

from flatlib.claims.versions import MixedVersions, of_one_version
from flatlib.errors import FlatlibError
from flatlib.stats import format_mean, seed_differences, seed_log2_ratios, seed_slopes, seed_taus

MIXED = "not compared: measured by different versions"
PerSeed = Callable[[pd.DataFrame], pd.Series]
NAMES = {  # of columns, in a unit; others are named as they are, with spaces
    **{"lambda_max": "λ_max", "sam_rho": "ρ", "dropout": "p", "weight_decay": "γ"},
    **{"train_accuracy": "training accuracy", "noise": "learning rate / batch size"},
    **{"frobenius": "the Frobenius norm", "minimum_sharpness": "the minimum sharpness", "loss_gap": "the loss gap"},
    **{"softmax_jacobian_norm": "the softmaxed Jacobian norm", "jacobian_norm_mean": "the logits' Jacobian norm"},
    **{"generalization_gap": "the accuracy gap"},
}


def all_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is."""
    return runs


def complete_cells(runs: pd.DataFrame, by: Iterable[str]) -> pd.DataFrame:
    """Return the runs of those settings (combinations of ``by``) that every seed trained to the stop rule.

    A setting that only some seeds reached would bias the rest: it is excluded as a whole, and :func:`exclusions`
    counts it.
    """
    reached = runs["status"] == "reached"
    return runs[reached.groupby([runs[name] for name in by]).transform("all")]


def exclusions(runs: pd.DataFrame, by: Iterable[str]) -> pd.DataFrame:
    """Count how the runs ended: one row per combination of ``by``, one column per status, and whether it counts."""
    counts = pd.crosstab([runs[name] for name in by], runs["status"])
    counts = counts.reindex(columns=["reached", "capped", "diverged"], fill_value=0)
    return counts.assign(counts=(counts["reached"] == counts.sum(axis=1)).map({True: "yes", False: "no"})).reset_index()


def one(runs: pd.DataFrame) -> int:
    """Return 1, whatever the table."""
    return 1


@dataclass(frozen=True)
class Statistic:
    """One number per seed: a mean over the blocks of a study.

    Attributes:
        study: Which runs are selected, and which of them are compared with each other.
        per_block: From the runs of one block to one number per seed (a Series indexed by seed), NaN where undefined.
        unit: Unit of the number.
        scale: Factor on the mean, such as 100 for percentage points.
        compared: Among how many blocks of a table of runs the one is chosen that the numbers are of.
    """

    study: "Study"
    per_block: PerSeed
    unit: str
    scale: float = 1
    compared: Callable[[pd.DataFrame], int] = one

    def __call__(self, runs: pd.DataFrame) -> pd.Series:
        """Return one number per seed; blocks where it is undefined for a seed are excluded from that seed's mean.

        Raises:
            FlatlibError: If the runs lack what is compared.
            KeyError: If the runs lack a column.
        """
        kept, blocks = self.study.select(runs), list(self.study.blocks)
        if not blocks:
            return self.scale * self.per_block(kept)
        numbers = [self.per_block(block) for _, block in kept.groupby(blocks)]
        return self.scale * (pd.concat(numbers, axis=1).mean(axis=1) if numbers else pd.Series(dtype=float))

    def __sub__(self, other: "Statistic") -> "Statistic":
        """Subtract another statistic of the same unit, seed by seed; each selects its own runs."""
        return Statistic(Study(), lambda runs: self(runs) - other(runs), self.unit)

    def map_blocks(self, function: Callable[[pd.Series], pd.Series], unit: str) -> "Statistic":
        """Apply a function to the numbers of each block, before their mean and without their scale."""
        return replace(self, per_block=lambda block: function(self.per_block(block)), unit=unit, scale=1)

    def of_block(self, choose: Callable[[pd.Series], Any]) -> "Statistic":
        """Take the numbers of one block, which ``choose`` names given the mean of each block over seeds."""

        def of_blocks(runs: pd.DataFrame) -> pd.DataFrame:
            kept = self.study.select(runs)
            blocks = pd.DataFrame({key: self.per_block(block) for key, block in kept.groupby(list(self.study.blocks))})
            return blocks.dropna(axis=1, how="all")

        def per_seed(runs: pd.DataFrame) -> pd.Series:
            blocks = of_blocks(runs)
            if blocks.empty:
                raise FlatlibError("no block has the statistic")
            return self.scale * blocks[choose(blocks.mean())]

        return Statistic(Study(), per_seed, self.unit, compared=lambda runs: of_blocks(runs).shape[1])

    def measured_in(self, unit: str) -> "Statistic":
        """Name the unit otherwise."""
        return replace(self, unit=unit)


@dataclass(frozen=True)
class Study:
    """Which runs of a table count, and which of them are compared with each other.

    >>> study = Study(settings=("learning_rate", "sam_rho"), blocks=("learning_rate",))
    >>> study.kendall("sam_rho", "lambda_max").unit
    "Kendall's τ of ρ and λ_max"

    Attributes:
        settings: Columns whose combinations are the settings; a setting counts if every seed reached the stop rule.
        blocks: Columns that runs share to be compared; a statistic is the mean over their combinations.
        batch: "small" or "large" selects the smallest or the largest batch size, "" all of them.
        paired: One of ``settings``; a combination of the others counts only if two or more of its values do.
        prepare: Applied to the table first: selects runs of a kind, adds columns.
    """

    settings: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    batch: str = ""
    paired: str = ""
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = all_runs

    def at(self, batch: str) -> "Study":
        """Return this study at the "small" or the "large" batch."""
        return replace(self, batch=batch)

    def select(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the runs that count; refuse runs of a single batch size where ``batch`` selects one."""
        runs = self.prepare(runs)
        if self.batch:
            sizes = sorted(runs["batch_size"].unique())
            if len(sizes) < 2:
                raise FlatlibError("batch_size: the claim compares at least two")
            runs = runs[runs["batch_size"] == sizes[{"small": 0, "large": -1}[self.batch]]]
        if self.settings:
            runs = complete_cells(runs, self.settings)
        if self.paired:
            others = [name for name in self.settings if name != self.paired]
            runs = runs[runs.groupby(others)[self.paired].transform("nunique") > 1]
        return runs

    def kendall(self, x: str, y: str) -> Statistic:
        """Return Kendall's tau of two columns: 1 if y rises with each step of x, -1 if it falls."""
        return Statistic(
            self, lambda block: seed_taus(of_one_version(block, x, y), x, y), f"Kendall's τ of {name(x)} and {name(y)}"
        )

    def slope(self, x: str, y: str, *, logy: bool = False) -> Statistic:
        """Return the slope of y on log₁₀ x: percentage points per decade, or decades per decade with ``logy``."""
        unit = f"{'decades' if logy else 'points'} of {name(y)} per decade of {name(x)}"
        return Statistic(
            self, lambda block: seed_slopes(of_one_version(block, x, y), x, y, logy=logy), unit, 1 if logy else 100
        )

    def difference(self, y: str, high: str, low: str, note: str = "") -> Statistic:
        """Return the mean of y where ``high`` holds minus that where ``low`` holds, in percentage points.

        Args:
            y: A column.
            high: A condition on columns, for ``DataFrame.eval``, evaluated within each block.
            low: Likewise.
            note: Added to the unit.
        """
        return Statistic(
            self,
            lambda block: seed_differences(of_one_version(block, y), y, matches(block, high), matches(block, low)),
            f"points of {name(y)}{note}",
            scale=100,
        )

    def log2_ratio(self, y: str, high: str, low: str, note: str = "") -> Statistic:
        """Return the doublings of y from ``low`` to ``high``; see :meth:`difference`."""
        return Statistic(
            self,
            lambda block: seed_log2_ratios(of_one_version(block, y), y, matches(block, high), matches(block, low)),
            f"doublings of {name(y)}{note}",
        )


def trends(
    runs: pd.DataFrame, setting: str, measures: Iterable[str], *, held: Iterable[str] = (), by: str = "batch_size"
) -> pd.DataFrame:
    """Compute Kendall's tau of a setting with every measure, as a mean over seeds with its 95 % interval.

    A combination of ``by``, ``held`` and ``setting`` that lost a seed is excluded as a whole.

    Args:
        runs: A table of runs.
        setting: The column that is varied.
        measures: The columns to correlate with it.
        held: Columns that runs share to be compared.
        by: The column whose values are compared separately.

    Returns:
        One row per measure, one column of texts per value of ``by``; a measure of mixed versions has no tau.
    """

    def tau(of_value: pd.DataFrame, measure: str) -> str:
        try:
            return format_mean(study.kendall(setting, measure)(of_value))
        except MixedVersions:
            return MIXED

    study = Study(blocks=tuple(held))
    kept = complete_cells(runs, [by, *study.blocks, setting])
    columns = {f"{by.replace('_', ' ')} {value:g}": of_value for value, of_value in kept.groupby(by)}
    return pd.DataFrame(
        {"measure": measure.replace("_", " ")} | {name: tau(of_value, measure) for name, of_value in columns.items()}
        for measure in measures
    )


def matches(runs: pd.DataFrame, condition: str) -> pd.Series:
    """Return which runs meet a condition; raise :class:`FlatlibError` if it is on a column that they lack."""
    try:
        return runs.eval(condition)
    except UndefinedVariableError as error:
        raise FlatlibError(f"{condition}: {error}") from error


def name(column: str) -> str:
    """Return what a column is called in a unit."""
    return NAMES.get(column, column.replace("_", " "))
