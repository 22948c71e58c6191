"""Progressive sharpening in frames: sharpness, loss and spectrum at each moment of one run (Cohen et al. 2021)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatlib.errors import FlatlibError
from flatlib.figures.axes import COLUMNS, format_log_ticks, require_columns
from flatlib.figures.frames import from_frame, in_frame
from flatlib.figures.labels import label_theory
from flatlib.figures.style import BLACK, GREEN, INK, PURPLE
from flatlib.figures.theory import DASHED, theory_named

SIZE = (4.8, 5.4)  # inches; narrow, to be legible on a phone


def sharpening(track: pd.DataFrame, losses: pd.DataFrame, spectra: pd.DataFrame, learning_rate: float) -> Figure:
    r"""Draw one run of full-batch gradient descent, a frame for each row of `track`: its sharpness and its loss up to
    there, and the spectral density there, with the line 2/eta.

    Args:
        track: columns update and lambda_max, in order.
        losses: columns update and train_loss, in order, at the updates of `track` and as many between them as there
            are: the loss may change faster than the sharpness can be measured.
        spectra: one row per node, with columns update, node, weight; nodes below zero are drawn too.
        learning_rate: eta of the line.

    Raises:
        FlatlibError: a missing column, no rows, or updates of `track` without a loss or a spectrum.
    """
    require_columns(track, "update", "lambda_max")
    require_columns(losses, "update", "train_loss")
    require_columns(spectra, "update", "node", "weight")
    if track.empty or not set(track["update"]) <= set(spectra["update"]) & set(losses["update"]):
        raise FlatlibError("every row of the track needs a loss and a spectrum, and there must be one at least")
    symbol, sharpness = theory_named("2/eta")
    edge = sharpness(learning_rate)
    fig = Figure(figsize=SIZE)  # not pyplot's: a notebook would show it a second time
    top, middle, bottom = fig.subplots(3, 1, height_ratios=[1.3, 1, 1.3])
    moments = track["update"].to_list()
    _so_far(track, "lambda_max", moments, top, GREEN)
    _so_far(losses, "train_loss", moments, middle, PURPLE)
    middle.set_yscale("log")
    format_log_ticks(middle.yaxis, losses["train_loss"].max() / losses["train_loss"].min())
    top.axhline(edge, **DASHED)
    label_theory(top, track["update"].iloc[0], edge, symbol)
    top.set(xlabel="", ylim=(0, 1.1 * max(edge, track["lambda_max"].max())))
    _spectra(track, spectra, bottom)
    bottom.axvline(edge, **DASHED)
    return fig


def _so_far(table: pd.DataFrame, column: str, moments: list[int], ax: Axes, color: str) -> None:
    """The curve up to each frame: a piece that stays, and a dot at the moment."""
    values = table.set_index("update")[column]
    for frame, moment in enumerate(moments):
        if frame:
            piece = values.loc[moments[frame - 1] : moment]
            from_frame(ax.plot(piece.index, piece, color=color)[0], frame)
        in_frame(ax.plot(moment, values[moment], "o", color=color)[0], frame)
    ax.set(xlabel=COLUMNS["update"].label, ylabel=COLUMNS[column].label)


def _spectra(track: pd.DataFrame, spectra: pd.DataFrame, ax: Axes) -> None:
    """The nodes of each frame as stems, as in `flatlib.figures.spectrum`; the largest one in the sharpness's colour."""
    shown = spectra[spectra["weight"] > 0]
    least = shown["weight"].min() / 3
    for frame, update in enumerate(track["update"]):
        rows = shown[shown["update"] == update].sort_values("node")
        (stems,) = ax.plot(*_stems(rows["node"].to_numpy(), rows["weight"].to_numpy(), least), color=INK, linewidth=1.0)
        (tip,) = ax.plot(rows["node"].iloc[-1], rows["weight"].iloc[-1], "o", color=GREEN, markeredgecolor=BLACK)
        in_frame(stems, frame)
        in_frame(tip, frame)
    ax.set_yscale("log")
    ax.set(xlabel=r"Eigenvalue $\lambda$", ylabel="Share of the spectrum", ylim=(least, 2))


def _stems(x: np.ndarray, heights: np.ndarray, foot: float) -> tuple[np.ndarray, np.ndarray]:
    """One broken line through all stems: a path is smaller than a collection of them."""
    gap = np.full_like(x, np.nan)
    return np.stack([x, x, gap], 1).ravel(), np.stack([np.full_like(x, foot), heights, gap], 1).ravel()
