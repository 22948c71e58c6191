"""How a slope changes from group to group (Kaur et al. 2022, figure 3, condensed to one point per batch size)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import axis_of, finite_rows
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import GREY, INK, series
from flatlib.stats import Interval, bootstrap_mean, seed_slopes


@placeholder_if_empty
def slope_by_group(
    table: pd.DataFrame,
    ax: Axes,
    *,
    x: str = "lambda_max",
    y: str = "test_accuracy",
    group: str = "batch_size",
    level: float = 0.95,
) -> None:
    """Draw, for each value of `group`, the mean over seeds of the slope of y per decade of x, with its interval.

    Seeds are faint dots, the mean is bold with its bootstrap interval, zero is a grey line. A seed whose runs give no
    slope is left out; a group without any is not drawn.

    Args:
        table: one row per run with columns seed, x, y and `group` (numbers). All rows count: pass the runs that the
            verdict counts (`flatlib.claims.prediction.complete_cells`).
        level: of the interval.

    Raises:
        FlatlibError: an unknown column, or an x that is not positive.
    """
    rows = finite_rows(table, x, y, group, "seed")
    slopes = {value: seed_slopes(runs, x, y).dropna() for value, runs in rows.groupby(group)}
    slopes = {value: of_seeds for value, of_seeds in slopes.items() if len(of_seeds)}
    if not slopes:
        raise EmptyPlot(f"nothing to draw: no seed of any {group} has two runs with different {x}")
    ax.set_xscale(axis_of(group).scale)
    ax.set_xlabel(axis_of(group).label)
    ax.set_ylabel(_slope_label(x, y))
    ax.set_xticks(list(slopes), [f"{value:g}" for value in slopes])
    ax.minorticks_off()
    ax.axhline(0, color=GREY, linewidth=1.0)
    means = {value: bootstrap_mean(of_seeds, level) for value, of_seeds in slopes.items()}
    ax.plot(list(means), [mean.estimate for mean in means.values()], color=INK, linewidth=1.0, alpha=0.4)
    for value, look in series(rows, group).items():
        if value in slopes:
            ax.plot(np.full(len(slopes[value]), value), slopes[value], ".", color=look.color, alpha=0.35)
            ax.errorbar(value, means[value].estimate, _whiskers(means[value]), color=look.color, fmt=look.marker)


def _slope_label(x: str, y: str) -> str:
    unit = "points " if axis_of(y).multiplier == 100 else ""  # a difference of percentages is in points
    return f"{axis_of(y).name}, slope\n({unit}per decade of {axis_of(x).symbol or axis_of(x).name})"


def _whiskers(mean: Interval) -> list[list[float]] | None:
    if mean.n == 1:
        return None
    return [[mean.estimate - mean.low], [mean.high - mean.estimate]]
