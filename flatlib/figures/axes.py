"""What each column of a table is called, in which unit it is shown, and on which scale."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from flatlib.errors import FlatlibError
from flatlib.figures.nothing import EmptyPlot


class Column(NamedTuple):
    """How a column is drawn: values times `multiplier`, on `scale`, labelled "name symbol (unit)"."""

    name: str
    symbol: str = ""
    unit: str = ""
    scale: str = "linear"
    multiplier: float = 1.0

    @property
    def label(self) -> str:
        """What is written at the axis.

        >>> COLUMNS["lambda_max"].label, AXIS["test_accuracy"].label
        ('Sharpness $\\\\lambda_{\\\\max}$', 'Test accuracy (%)')
        """
        return " ".join(filter(None, [self.name, self.symbol, f"({self.unit})" if self.unit else ""]))


COLUMNS = {
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
    "curvature": Column("Curvature along", "$v_1$"),
    "gauss_newton_lambda_max": Column("Gauss-Newton sharpness", r"$\lambda_{\max}(G)$", scale="log"),
    "between_iterates": Column("Sharpness between iterates", r"$\lambda_{\max}$", scale="log"),
    "trace": Column("Hessian trace", r"$\mathrm{tr}\,H$", scale="log"),
    "frobenius": Column("Frobenius norm", r"$\Vert H\Vert_F$", scale="log"),
    "frobenius_per_parameter": Column("Mean squared eigenvalue", r"$\Vert H\Vert_F^2 / n$", scale="log"),
    "minimum_sharpness": Column("Minimum sharpness", scale="log"),
    "adaptive_sharpness": Column("Adaptive sharpness", scale="log"),
    "sam_sharpness": Column("SAM sharpness", scale="log"),
    "keskar_sharpness": Column("Keskar sharpness", unit="%", scale="log"),
    "margin": Column("Median margin", unit="input distance"),
    "margin_low": Column("10 % margin", unit="input distance"),
    "gradient_norm": Column("Gradient norm", r"$\Vert g\Vert$", scale="log"),
    "weight_norm": Column("Weight norm", r"$\Vert w\Vert$", scale="log"),
    "jacobian_norm": Column("Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "jacobian_norm_mean": Column("Mean Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "softmax_jacobian_norm": Column("Softmax Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
    "softmax_jacobian_norm_mean": Column("Mean softmax Jacobian norm", r"$\Vert J\Vert_2$", scale="log"),
}
"""Every column that is drawn, by name."""


AT_LOSS = "_at_loss"


def axis_of(column: str) -> Column:
    """The `Column` of a column, or a `FlatlibError` that says where to add it.

    A measure at matched loss (`RunConfig.matched_loss`) is drawn like the measure itself.
    """
    if column.endswith(AT_LOSS):
        axis = axis_of(column.removesuffix(AT_LOSS))
        return axis._replace(name=f"{axis.name} at equal loss")
    if column not in COLUMNS:
        raise FlatlibError(
            f"no axis for column {column!r}; add it to flatlib.figures.axes.COLUMNS ({', '.join(COLUMNS)})"
        )
    return COLUMNS[column]


def require_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise a `FlatlibError` that names the columns which the table lacks."""
    missing = [name for name in names if name not in table]
    if missing:
        raise FlatlibError(f"the table has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")


def finite_rows(table: pd.DataFrame, x: str, y: str, *others: str) -> pd.DataFrame:
    """The rows whose x and y are finite, x and y in the units of their axes.

    Raises:
        FlatlibError: a missing column, or (`EmptyPlot`) no row that is finite.
    """
    require_columns(table, x, y, *others)
    scaled = {name: table[name].astype(float) * axis_of(name).multiplier for name in (x, y)}
    rows = table.assign(**scaled)
    rows = rows[np.isfinite(rows[[x, y]]).all(axis=1)]
    if rows.empty:
        raise EmptyPlot(f"nothing to draw: none of the table's {len(table)} rows has a finite {x} and {y}")
    return rows


def drawable_runs(table: pd.DataFrame, x: str, y: str, *others: str) -> pd.DataFrame:
    """`finite_rows`, without the runs that diverged: what was measured of them, if anything, is of no trained network."""
    rows = finite_rows(table, x, y, "status", *others)
    rows = rows[rows["status"] != "diverged"]
    if rows.empty:
        raise EmptyPlot("nothing to draw: every run diverged")
    return rows


def label_axes(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Label both axes and set their scales. A log axis falls back to linear when some value is not positive:
    a figure may look unusual, but it never leaves out a run. A setting may be zero, which stands for "none".
    """
    ax.set(xlabel=axis_of(x).label, ylabel=axis_of(y).label)
    for column, set_scale, axis in ((x, ax.set_xscale, ax.xaxis), (y, ax.set_yscale, ax.yaxis)):
        values = rows[column]
        if column == x and axis_of(x).scale == "log" and values.min() == 0 < values.max():
            name_zero(ax, np.unique(values))
            continue
        logarithmic = axis_of(column).scale == "log" and (values > 0).all()
        set_scale("log" if logarithmic else "linear")
        if logarithmic:
            format_log_ticks(axis, values.max() / values.min())


def format_log_ticks(axis: XAxis | YAxis, ratio: float) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, or at decades alone where the data span two or more of them."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 100 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def name_zero(ax: Axes, values: np.ndarray) -> None:
    """A logarithmic x axis from the smallest positive value on, with a tick at each value, and zero left of it."""
    ax.set_xscale("symlog", linthresh=values[1], linscale=0.5)
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
