"""A measure along training, one curve per learning rate (the kind of Kaur et al. 2022, figure 5)."""

import pandas as pd
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.axes import finite_rows, label_axes
from flatlib.figures.labels import End, key_above, label_ends
from flatlib.figures.nothing import placeholder_if_empty
from flatlib.figures.style import Series, series
from flatlib.figures.theory import DASHED, theory_named


@placeholder_if_empty
def trajectories(
    long: pd.DataFrame, y: str, ax: Axes, *, by: str = "learning_rate", x: str = "update", theory: str | None = None
) -> None:
    """Draw y along training: every run faint, the mean over runs bold.

    The mean covers the updates at which every run of its group has a value, so that it never jumps because a run
    has stopped; the runs themselves go on to their end.

    Args:
        long: one row per run and update with columns run_id, x, y, `by`.
        by: the column that tells curves apart; numbers take viridis.
        theory: "2/eta" draws the edge of stability of each learning rate, dashed and grey, named at its right end
            in the curve's colour (needs by="learning_rate").

    Raises:
        FlatlibError: an unknown column or theory, or a theory without learning rates to draw it for.
    """
    rows = finite_rows(long, x, y, by, "run_id")
    label_axes(ax, rows, x, y)
    looks = series(rows, by)
    for value, look in looks.items():
        _curve(ax, rows[rows[by] == value], x, y, look)
    if theory is None:
        key_above(ax, looks.values(), linestyle="-")
    else:
        _edges(ax, looks, by, theory)


def _curve(ax: Axes, rows: pd.DataFrame, x: str, y: str, look: Series) -> None:
    runs = rows.pivot_table(index=x, columns="run_id", values=y)
    for run in runs:
        of_run = runs[run].dropna()
        ax.plot(of_run.index, of_run, color=look.color, linewidth=0.8, alpha=0.3)
    mean = runs.dropna().mean(axis=1)
    if not mean.empty:
        ax.plot(mean.index, mean, color=look.color, marker=look.marker, markevery=[-1])


def _edges(ax: Axes, looks: dict[float, Series], by: str, theory: str) -> None:
    if by != "learning_rate":
        raise FlatlibError(f"theory {theory!r} needs by='learning_rate', got by={by!r}")
    symbol, sharpness = theory_named(theory)
    for eta in looks:
        ax.axhline(sharpness(eta), **DASHED)
    named = {eta: look._replace(label=f"{symbol}, {look.label}") for eta, look in looks.items()}
    label_ends(ax, [End(None, sharpness(eta), look) for eta, look in named.items()])
