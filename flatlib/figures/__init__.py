"""The book's figure kinds. Each takes a table and an `ax`, draws, and returns nothing; none knows a model.

use_style                    the house style, and deterministic SVG in notebooks
ONE_COLUMN, TWO_COLUMNS      the two figure widths, in inches
AXIS                         column of a table -> its name, symbol, unit and scale

against                      a measure against a setting, one curve per value of another
scatter                      one measure against another, one point per run
slope_trend                  the seeds' mean slope against batch size
trajectories                 a measure along training, one curve per learning rate
landscape_lines              the loss along eigenvectors of its Hessian
landscape_contours           the loss in the plane of two eigenvectors
ratio_rows                   ratios to a reference, one row per case
interval_rows                estimates with their intervals, one row per case
departures                   settings of many experiments, each against the rest of its own
mean_rows                    means with intervals, one row per name and one mark per group
spectrum                     the spectral density of one run
"""

from flatlib.figures.against import against
from flatlib.figures.axes import AXIS, Axis
from flatlib.figures.departures import departures
from flatlib.figures.intervals import interval_rows
from flatlib.figures.landscape import landscape_contours, landscape_lines
from flatlib.figures.ratios import ratio_rows
from flatlib.figures.rows import mean_rows
from flatlib.figures.scatter import scatter
from flatlib.figures.slopes import slope_trend
from flatlib.figures.spectrum import spectrum
from flatlib.figures.style import ONE_COLUMN, TWO_COLUMNS, use_style
from flatlib.figures.trajectories import trajectories

__all__ = [
    "AXIS",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "Axis",
    "against",
    "departures",
    "interval_rows",
    "landscape_contours",
    "landscape_lines",
    "mean_rows",
    "ratio_rows",
    "scatter",
    "slope_trend",
    "spectrum",
    "trajectories",
    "use_style",
]
