"""The book's figure kinds. Each takes a table and an `ax`, draws, and returns nothing; none knows a model.

use_style                    the house style, and deterministic SVG in notebooks
ONE_COLUMN, TWO_COLUMNS      the two figure widths, in inches
AXIS                         column of a table -> its name, symbol, unit and scale

against                      a measure against a setting, one curve per value of another
scatter                      one measure against another, one point per run
slope_trend                  the seeds' mean slope against batch size
trajectories                 a measure along training, one curve per learning rate
landscape_lines              the loss along eigenvectors of its Hessian
landscape_slices             the loss along any named directions
landscape_contours           the loss in the plane of two eigenvectors
landscape_steps              the steps of an optimizer in such a plane
ratio_rows                   ratios to a reference, one row per case
interval_rows                estimates with their intervals, one row per case
departures                   settings of many experiments, each against the rest of its own
verdict_grid                 which predictions hold at which scale
mean_rows                    means with intervals, one row per name and one mark per group
spectrum                     the spectral density of one run
spectral_density             a smoothed density with its outliers
curvature_matrix             a Hessian as a picture
image, image_direction       pixels, and a direction in the space of images
class_probabilities          what a classifier makes of an image
sharpening                   frames of progressive sharpening; `Frames` is a figure with a slider
"""

from flatlib.figures.against import mean_curves
from flatlib.figures.axes import COLUMNS, Column
from flatlib.figures.density import spectral_density
from flatlib.figures.departures import departures
from flatlib.figures.frames import Frames
from flatlib.figures.images import class_probabilities, image, image_direction
from flatlib.figures.intervals import forest_plot
from flatlib.figures.landscape import landscape_contours, landscape_lines, landscape_slices
from flatlib.figures.matrix import curvature_matrix
from flatlib.figures.ratios import ratio_plot
from flatlib.figures.rows import dot_plot
from flatlib.figures.scatter import scatter
from flatlib.figures.sharpening import sharpening
from flatlib.figures.slopes import slope_by_group
from flatlib.figures.spectrum import spectrum
from flatlib.figures.steps import landscape_steps
from flatlib.figures.style import ONE_COLUMN, TWO_COLUMNS, use_style
from flatlib.figures.trajectories import trajectories
from flatlib.figures.verdict_grid import verdict_grid

__all__ = [
    "COLUMNS",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "Column",
    "Frames",
    "class_probabilities",
    "curvature_matrix",
    "departures",
    "dot_plot",
    "forest_plot",
    "image",
    "image_direction",
    "landscape_contours",
    "landscape_lines",
    "landscape_slices",
    "landscape_steps",
    "mean_curves",
    "ratio_plot",
    "scatter",
    "sharpening",
    "slope_by_group",
    "spectral_density",
    "spectrum",
    "trajectories",
    "use_style",
    "verdict_grid",
]
