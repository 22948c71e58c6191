"""The book's kinds of figures: each draws a table into matplotlib's axes and knows no model.

A missing column or an unknown option raises a ``FlatlibError`` that names it; a table with nothing to draw leaves a
text that says so.
"""

from flatlib.figures.axes import COLUMNS, Column
from flatlib.figures.contributions import contributions
from flatlib.figures.curves import mean_curves, slope_by_group, trajectories
from flatlib.figures.forest import dot_plot, forest_plot, ratio_plot
from flatlib.figures.grid import verdict_columns, verdict_grid, verdict_grid_size
from flatlib.figures.images import class_probabilities, curvature_matrix, image, image_direction
from flatlib.figures.landscape import landscape_contours, landscape_lines, landscape_slices, landscape_steps
from flatlib.figures.scatter import quadrant_plot, scatter
from flatlib.figures.slider import Frames, sharpening
from flatlib.figures.spectra import spectral_density, spectrum
from flatlib.figures.style import ONE_COLUMN, TWO_COLUMNS, use_style
from flatlib.figures.verdicts import verdict_dots, verdict_intervals, verdict_size

__all__ = ["COLUMNS", "ONE_COLUMN", "TWO_COLUMNS", "Column", "Frames", "class_probabilities", "contributions"]
__all__ += [
    "curvature_matrix",
    "dot_plot",
    "forest_plot",
    "image",
    "image_direction",
    "landscape_contours",
    "landscape_lines",
]
__all__ += ["landscape_slices", "landscape_steps", "mean_curves", "quadrant_plot", "ratio_plot", "scatter"]
__all__ += ["sharpening", "slope_by_group", "spectral_density", "spectrum", "trajectories", "use_style"]
__all__ += ["verdict_columns", "verdict_dots", "verdict_grid", "verdict_grid_size", "verdict_intervals", "verdict_size"]
