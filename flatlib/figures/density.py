"""A smoothed spectral density, with the eigenvalues that stand apart from the rest."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from flatlib.figures.axes import require_columns
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import INK, VERMILLION


@placeholder_if_empty
def spectral_density(table: pd.DataFrame, ax: Axes, outliers: Sequence[float] = ()) -> None:
    """Draw a density on a log axis: every probe faint, their mean bold, the outliers as triangles at the bottom.

    Args:
        table: one row per probe and grid point with columns probe, eigenvalue, density; the same grid for each probe.
        outliers: eigenvalues to mark.

    Raises:
        FlatlibError: a missing column.
    """
    require_columns(table, "probe", "eigenvalue", "density")
    curves = table.pivot_table(index="eigenvalue", columns="probe", values="density")
    mean = curves.mean(axis=1)
    if not (mean > 0).any():
        raise EmptyPlot("nothing to draw: the density is zero everywhere")
    floor = mean.max() * 1e-6  # the Gaussian tails of the smoothing, and nothing of the spectrum, lie below
    for probe in curves:
        ax.plot(curves.index, curves[probe].clip(lower=floor), color=INK, linewidth=0.6, alpha=0.25)
    ax.plot(curves.index, mean.clip(lower=floor), color=INK, linewidth=1.4)
    ax.plot(outliers, [floor] * len(outliers), "^", color=VERMILLION, clip_on=False, zorder=3)
    ax.set_yscale("log")
    ax.set(xlabel=r"Eigenvalue $\lambda$", ylabel="Spectral density", ylim=(floor, 2 * mean.max()))
