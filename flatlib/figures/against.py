"""A measure against a setting, one curve per value of another (the kind of Kaur et al. 2022, figures 1 and 6)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.axes import drawable_runs, label_axes
from flatlib.figures.labels import End, label_ends, label_theory
from flatlib.figures.nothing import placeholder_if_empty
from flatlib.figures.style import Series, series
from flatlib.figures.theory import DASHED, theory_named
from flatlib.stats import bootstrap_mean


@placeholder_if_empty
def mean_curves(
    table: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str = "batch_size", theory: str | None = None
) -> None:
    """Draw y against the setting x: every seed faint, the mean bold, a 95 % bootstrap band over seeds.

    A value of x has a mean and a band only if every seed reached the stop rule there, as in the verdicts
    (`flatlib.claims.selection.complete_cells`). Capped runs are open markers; diverged runs are not drawn. A band needs
    two seeds.

    Args:
        table: one row per run with columns x, seed, status, y and `by`.
        x: a setting, such as learning_rate. A zero on a log axis (no SAM, no decay) stands left of a short linear part.
        by: the column that tells curves apart.
        theory: "2/eta" draws the edge of stability, dashed and grey (needs x="learning_rate").

    Raises:
        FlatlibError: an unknown column, an unknown theory, or a theory without learning rates to draw it for.
    """
    rows = drawable_runs(table, x, y, by, "seed")
    label_axes(ax, rows, x, y)
    reached = table["status"] == "reached"
    complete = reached.groupby([table[by], table[x]]).transform("all").loc[rows.index]
    ends = []
    for value, look in series(rows, by).items():
        of_value = rows[by] == value
        _runs(ax, rows[of_value], x, y, look)
        _mean(ax, rows[of_value & complete], x, y, look)
        ends.append(_end(rows[of_value], x, y, look))
    if theory is not None:
        if x != "learning_rate":
            raise FlatlibError(f"theory {theory!r} needs x='learning_rate', got x={x!r}")
        eta = np.unique(rows[x])
        edge = theory_named(theory).sharpness(eta)
        ax.plot(eta, edge, **DASHED)
        label_theory(ax, eta[0], edge[0], theory_named(theory).symbol)
    label_ends(ax, ends)


def _runs(ax: Axes, runs: pd.DataFrame, x: str, y: str, look: Series) -> None:
    reached = runs[runs["status"] == "reached"].sort_values(x)
    for _, of_seed in reached.groupby("seed"):
        ax.plot(of_seed[x], of_seed[y], color=look.color, linewidth=0.8, alpha=0.25)
    capped = runs[runs["status"] == "capped"]
    ax.plot(capped[x], capped[y], look.marker, color=look.color, mfc="none", ms=4, lw=0, alpha=0.8)


def _mean(ax: Axes, runs: pd.DataFrame, x: str, y: str, look: Series) -> None:
    intervals = {rate: bootstrap_mean(values) for rate, values in runs.groupby(x)[y]}
    known = {rate: interval for rate, interval in intervals.items() if interval.n > 1}
    ax.fill_between(
        list(known),
        [interval.low for interval in known.values()],
        [interval.high for interval in known.values()],
        color=look.color,
        alpha=0.15,
        linewidth=0,
    )
    means = [interval.estimate for interval in intervals.values()]
    ax.plot(list(intervals), means, color=look.color, marker=look.marker)


def _end(runs: pd.DataFrame, x: str, y: str, look: Series) -> End:
    last = runs[x].max()
    return End(last, runs.loc[runs[x] == last, y].mean(), look)
