"""The spectral density of a Hessian as stems (the kind of Granziol 2020, figures 1 to 8)."""

import pandas as pd
from matplotlib.axes import Axes

from flatlib.errors import FlatlibError
from flatlib.figures.nothing import NothingToDraw, says_why
from flatlib.figures.style import INK


@says_why
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
        raise NothingToDraw("nothing to draw: this run has no spectrum")
    least = weights[finite].min() / 3
    ax.vlines(nodes[finite], least, weights[finite], color=INK, linewidth=1.0)
    ax.set_yscale("log")
    ax.set_ylim(bottom=least)
    ax.set(xlabel=r"Eigenvalue $\lambda$", ylabel="Share of the spectrum")
