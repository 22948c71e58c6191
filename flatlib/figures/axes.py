"""Label, unit and scale of each column of a table; the rows that can be drawn; a placeholder where there are none."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple, ParamSpec

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from flatlib.errors import FlatlibError
from flatlib.names import AT_LOSS
from flatlib.stats import require_columns

P = ParamSpec("P")  # of a figure function


class EmptyPlot(FlatlibError):
    """The table has no row to draw; the message says why."""


def placeholder_if_empty(draw: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function with a parameter ``ax`` to write the message of an :class:`EmptyPlot` into these axes.

    A page that is executed with unusual settings can then be read to its end.
    """
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except EmptyPlot as reason:
            ax = signature.bind(*args, **kwargs).arguments["ax"]
            ax.set_axis_off()
            ax.text(0.5, 0.5, str(reason), transform=ax.transAxes, ha="center", va="center", wrap=True)

    return drawn


class Column(NamedTuple):
    """Style of a column's axis, which is labelled "name symbol (unit)".

    Attributes:
        name: Name in words.
        symbol: Symbol in LaTeX.
        unit: Unit in which the values are shown.
        scale: ``"linear"`` or ``"log"``.
        multiplier: Factor from the values of the table to the unit.
    """

    name: str
    symbol: str = ""
    unit: str = ""
    scale: str = "linear"
    multiplier: float = 1.0

    @property
    def label(self) -> str:
        """Label of the axis.

        >>> COLUMNS["lambda_max"].label, COLUMNS["test_accuracy"].label
        ('Sharpness $\\\\lambda_{\\\\max}$', 'Test accuracy (%)')
        """
        return " ".join(filter(None, [self.name, self.symbol, f"({self.unit})" if self.unit else ""]))


COLUMNS = {  # every column that can be drawn
    "learning_rate": Column("Learning rate", r"$\eta$", scale="log"),
    "batch_size": Column("Batch size", "$B$", scale="log"),
    "width": Column("Width", scale="log"),
    "depth": Column("Hidden layers"),
    "train_size": Column("Training images", "$N$", scale="log"),
    "update": Column("Update", "$t$"),
    "time": Column("Time", r"$\eta t$"),
    "epoch": Column("Epoch"),
    "alpha": Column("Batch size / learning rate", r"$\alpha$", scale="log"),
    "sam_rho": Column("SAM radius", r"$\rho$", scale="log"),
    "dropout": Column("Dropout rate", "$p$"),
    "weight_decay": Column("Weight decay", r"$\gamma$", scale="log"),
    "label_smoothing": Column("Label smoothing"),
    "mixup": Column("Mixup", r"$\alpha$", scale="log"),
    "strength": Column("Strength", scale="log"),
    "updates": Column("Updates", scale="log"),
    "train_accuracy": Column("Training accuracy", unit="%", multiplier=100),
    "test_accuracy": Column("Test accuracy", unit="%", multiplier=100),
    "validation_accuracy": Column("Validation accuracy", unit="%", multiplier=100),
    "generalization_gap": Column("Generalization gap", unit="points", multiplier=100),
    "loss_gap": Column("Loss gap", unit="nats"),
    "train_loss": Column("Training loss", "$L$", scale="log"),
    "test_loss": Column("Test loss", "$L$", scale="log"),
    "validation_loss": Column("Validation loss", "$L$", scale="log"),
    "lambda_max": Column("Sharpness", r"$\lambda_{\max}$", scale="log"),
    "lambda_min": Column("Smallest eigenvalue", r"$\lambda_{\min}$"),
    "train_cross_entropy": Column("Training cross-entropy", "$L$", scale="log"),
    "test_cross_entropy": Column("Test cross-entropy", "$L$", scale="log"),
    "validation_cross_entropy": Column("Validation cross-entropy", "$L$", scale="log"),
    "cross_entropy_gap": Column("Cross-entropy gap", unit="nats"),
    "cross_entropy_lambda_max": Column("Sharpness of the cross-entropy", r"$\lambda_{\max}$", scale="log"),
    "preconditioned_lambda_max": Column("Preconditioned sharpness", r"$\lambda_{\max}(P^{-1}H)$", scale="log"),
    "curvature": Column("Curvature along", "$v_1$"),
    "gauss_newton_lambda_max": Column("Gauss-Newton sharpness", r"$\lambda_{\max}(G)$", scale="log"),
    "empirical_fisher_lambda_max": Column("Empirical Fisher sharpness", scale="log"),
    "empirical_fisher_trace": Column("Empirical Fisher trace", scale="log"),
    "between_iterates": Column("Sharpness between iterates", r"$\lambda_{\max}$", scale="log"),
    "batch_sharpness": Column("Batch sharpness", scale="log"),
    "critical_sharpness": Column("Critical sharpness", r"$\lambda_c$", scale="log"),
    "trace": Column("Hessian trace", r"$\mathrm{tr}\,H$", scale="log"),
    "frobenius": Column("Frobenius norm", r"$\Vert H\Vert_F$", scale="log"),
    "frobenius_per_parameter": Column("Mean squared eigenvalue", r"$\Vert H\Vert_F^2 / n$", scale="log"),
    "minimum_sharpness": Column("Minimum sharpness", scale="log"),
    "adaptive_sharpness": Column("Adaptive sharpness", scale="log"),
    "adaptive_sharpness_linf": Column("Adaptive sharpness in a box", scale="log"),
    "normalized_adaptive_sharpness": Column("Adaptive sharpness, normalized logits", scale="log"),
    "normalized_adaptive_sharpness_linf": Column("Adaptive sharpness in a box, normalized logits", scale="log"),
    "average_adaptive_sharpness": Column("Average adaptive sharpness", scale="log"),
    "sam_sharpness": Column("SAM sharpness", scale="log"),
    "keskar_sharpness": Column("Keskar sharpness", unit="%", scale="log"),
    "margin": Column("Median margin", unit="input distance"),
    "margin_low": Column("10 % margin", unit="input distance"),
    "gradient_norm": Column("Gradient norm", r"$\Vert g\Vert$", scale="log"),
    "weight_norm": Column("Weight norm", r"$\Vert w\Vert$", scale="log"),
    "input_lambda_max": Column("Input curvature", scale="log"),
    "input_lambda_max_mean": Column("Mean input curvature", scale="log"),
    "jacobian_norm": Column("Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "jacobian_norm_mean": Column("Mean Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "softmax_jacobian_norm": Column("Softmax Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "softmax_jacobian_norm_mean": Column("Mean softmax Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "jacobian_lower_bound": Column("Lower bound of the Jacobian norm"),
    "jacobian_lower_bound_misfit": Column("Largest misfit", r"$\ell$", scale="log"),
    "jacobian_lower_bound_fitted": Column("Lower bound of the Jacobian norm when fitted", scale="log"),
    "jacobian_lower_bound_quotient": Column("Largest difference quotient", scale="log"),
}


def axis_of(column: str) -> Column:
    """Return the :class:`Column` of a known name; a measure at matched loss is drawn like the measure itself."""
    if column.endswith(AT_LOSS):
        axis = axis_of(column.removesuffix(AT_LOSS))
        return axis._replace(name=f"{axis.name} at equal loss")
    if column not in COLUMNS:
        raise FlatlibError(
            f"no axis for column {column!r}; add it to flatlib.figures.axes.COLUMNS ({', '.join(COLUMNS)})"
        )
    return COLUMNS[column]


def drop_infinite(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows that are finite in all the columns, or raise an `EmptyPlot` if there are none."""
    require_columns(table, columns)
    rows = table[np.isfinite(table[list(columns)].astype(float)).all(axis=1)]
    if rows.empty:
        raise EmptyPlot(f"nothing to draw: none of the table's {len(table)} rows has a finite {' and '.join(columns)}")
    return rows


def finite_rows(table: pd.DataFrame, x: str, y: str, *others: str) -> pd.DataFrame:
    """Return the rows with finite x and y, both in the units of their axes; refuse a table without the columns."""
    require_columns(table, (x, y, *others))
    scaled = {name: table[name].astype(float) * axis_of(name).multiplier for name in (x, y)}
    return drop_infinite(table.assign(**scaled), x, y)


def drawable_runs(table: pd.DataFrame, x: str, y: str, *others: str) -> pd.DataFrame:
    """Return `finite_rows` without diverged runs, whose measures are not those of a trained network."""
    rows = finite_rows(table, x, y, "status", *others)
    rows = rows[rows["status"] != "diverged"]
    if rows.empty:
        raise EmptyPlot("nothing to draw: every run diverged")
    return rows


def label_axes(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Label both axes and set their scales.

    A log axis becomes linear if a value is not positive, so that every run is drawn. A setting x may be zero ("none"):
    it stands left of the smallest positive value, and every value has a tick.
    """
    ax.set(xlabel=axis_of(x).label, ylabel=axis_of(y).label)
    if axis_of(x).scale == "log" and rows[x].min() == 0 < rows[x].max():
        values = np.unique(rows[x])
        ax.set_xscale("symlog", linthresh=values[1], linscale=0.5)
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    else:
        set_scale(ax.xaxis, x, rows[x])
    set_scale(ax.yaxis, y, rows[y])


def set_scale(axis: XAxis | YAxis, column: str, values: pd.Series) -> None:
    """Set the scale of the column, or a linear one if a value is not positive."""
    logarithmic = axis_of(column).scale == "log" and bool((values > 0).all())
    set_axis_scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    set_axis_scale("log" if logarithmic else "linear")
    if logarithmic:
        format_log_ticks(axis, values.max() / values.min())


def format_log_ticks(axis: XAxis | YAxis, ratio: float) -> None:
    """Write plain numbers at 1, 2 and 5 of each decade, or at decades alone if the data span two or more (`ratio`)."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 100 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
