"""Spectral densities of a Hessian: as stems at the nodes of a quadrature, or smoothed with the outliers marked."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.axes import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import INK, VERMILLION, faint
from flatlib.stats import require_columns

STEM_FOOT = 1e-30  # below the axis, however low a panel that shares it extends
X_LABEL, Y_LABEL = r"Eigenvalue $\lambda$", "Share of the spectrum"


@placeholder_if_empty
def spectrum(run: pd.Series, ax: Axes) -> None:
    """Draw the nodes of one run's measure ``density``, each as high as its weight, on a log axis.

    The kind of Granziol 2020, figures 1 to 8.

    Args:
        run: A row of a table of runs with columns ``density_node_00`` and so on.
    """
    nodes, weights = (run.filter(regex=rf"^density_{kind}_\d+$").astype(float) for kind in ("node", "weight"))
    if nodes.empty:
        raise FlatlibError("the table has no column density_node_00; add 'density' to the measures")
    finite = nodes.notna().to_numpy() & (weights > 0).to_numpy()
    if not finite.any():
        raise EmptyPlot("nothing to draw: this run has no spectrum")
    low, high = weights[finite].min() / 3, weights[finite].max() * 1.5
    drawn = [one.get_ylim() for one in ax.get_shared_y_axes().get_siblings(ax) if one is not ax and one.collections]
    ax.vlines(nodes[finite], STEM_FOOT, weights[finite], color=INK, linewidth=1.0)
    ax.set_yscale("log")
    ax.set_ylim(min([low, *(bottom for bottom, _ in drawn)]), max([high, *(top for _, top in drawn)]))
    ax.set(xlabel=X_LABEL, ylabel=Y_LABEL)


@placeholder_if_empty
def spectral_density(table: pd.DataFrame, ax: Axes, outliers: Sequence[float] = ()) -> None:
    """Draw a density on a log axis: every probe faint, their mean bold, the outliers as triangles at the bottom.

    Args:
        table: One row per probe and grid point with columns probe, eigenvalue, density; the same grid for each probe.
        outliers: Eigenvalues to mark.
    """
    require_columns(table, ("probe", "eigenvalue", "density"))
    curves = table.pivot_table(index="eigenvalue", columns="probe", values="density")
    mean = curves.mean(axis=1)
    if not (mean > 0).any():
        raise EmptyPlot("nothing to draw: the density is zero everywhere")
    floor = mean.max() * 1e-6  # only the Gaussian tails of the smoothing lie below
    for probe in curves:
        clipped = curves[probe].clip(lower=floor)
        ax.plot(curves.index, clipped, color=faint(INK), linewidth=0.4, label="_probe")
    ax.plot(curves.index, mean.clip(lower=floor), color=INK, linewidth=1.4, label="_mean")
    ax.plot(outliers, [floor] * len(outliers), "^", color=VERMILLION, clip_on=False, zorder=3, label="_outliers")
    ax.set_yscale("log")
    ax.set(xlabel=X_LABEL, ylabel="Spectral density", ylim=(floor, 2 * mean.max()))
