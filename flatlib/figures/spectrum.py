"""The spectral density of a Hessian as stems (the kind of Granziol 2020, figures 1 to 8)."""

import pandas as pd
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.nothing import EmptyPlot, placeholder_if_empty
from flatlib.figures.style import INK

DEEP = 1e-30  # where a stem begins: below the axis, however low a panel beside it pulls that


@placeholder_if_empty
def spectrum(run: pd.Series, ax: Axes) -> None:
    """Draw the nodes of one run's measure `density`, each as high as its weight, on a log axis.

    Args:
        run: a row of a table of runs with columns ``density_node_00`` and so on.

    Raises:
        FlatlibError: a run without that measure.
    """
    nodes, weights = (run.filter(regex=rf"^density_{kind}_\d+$").astype(float) for kind in ("node", "weight"))
    if nodes.empty:
        raise FlatlibError("the table has no column density_node_00; ask for the measure density")
    finite = nodes.notna().to_numpy() & (weights > 0).to_numpy()
    if not finite.any():
        raise EmptyPlot("nothing to draw: this run has no spectrum")
    low, high = weights[finite].min() / 3, weights[finite].max() * 1.5
    drawn = [one.get_ylim() for one in ax.get_shared_y_axes().get_siblings(ax) if one is not ax and one.collections]
    ax.vlines(nodes[finite], DEEP, weights[finite], color=INK, linewidth=1.0)
    ax.set_yscale("log")
    ax.set_ylim(min([low, *(bottom for bottom, _ in drawn)]), max([high, *(top for _, top in drawn)]))
    ax.set(xlabel=r"Eigenvalue $\lambda$", ylabel="Share of the spectrum")
