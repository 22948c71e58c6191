"""A figure with a slider, as one SVG that contains all frames; progressive sharpening as such a figure."""

import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatlib.errors import FlatlibError
from flatlib.figures.axes import COLUMNS, format_log_ticks
from flatlib.figures.data_text import data_text
from flatlib.figures.labels import label_theory
from flatlib.figures.spectra import X_LABEL, Y_LABEL
from flatlib.figures.style import BLACK, DASHED, EDGE, GREEN, INK, PURPLE
from flatlib.stats import require_columns

MARKED = re.compile(r'<g id="(now|since)-(\d+)"')  # the group of a marked artist
SIZE = (4.8, 5.4)  # inches; narrow, to be legible on a phone


@dataclass(frozen=True)
class Frames:
    """A figure whose artists are marked with their frames, for a notebook to display.

    The id of an artist says when it is drawn: "now-2" in frame 2 only, "since-2" from frame 2 on; without an id always.
    In the book ``frames.js`` moves through the frames, by arrow keys and a button. Without scripts the last frame is
    shown, without controls.

    Attributes:
        figure: Figure with the marked artists.
        captions: Caption of each frame, such as "update 8: loss 2.3", which is read aloud as the slider's value.
        name: Name of the figure, unique on its page.
        slider: Label of the slider, such as "Update".
        alt: Description of the figure.
    """

    figure: Figure
    captions: Sequence[str]
    name: str
    slider: str
    alt: str

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": f"{self.alt}\n{data_text(self.figure)}"}

    def html(self) -> str:
        """Return the SVG, and below it a button, a labelled slider and the caption, hidden until a script runs."""
        last = len(self.captions) - 1
        name, alt, label = (html.escape(text) for text in (self.name, self.alt, self.slider))
        captions = html.escape(json.dumps(list(self.captions), ensure_ascii=False))
        return f"""<div class="frames" data-captions="{captions}">
{self.svg().replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)}
<div class="frames-controls" style="visibility: hidden">
<button type="button">Play</button>
<label for="{name}-slider">{label}</label>
<input type="range" id="{name}-slider" min="0" max="{last}" step="1" value="{last}">
<output for="{name}-slider" aria-live="off">{html.escape(self.captions[last])}</output>
</div>
</div>"""

    def svg(self) -> str:
        """Return the figure as an ``svg`` element; a group of a frame has an attribute ``data-now`` or ``data-since``.

        Raises:
            FlatlibError: No marked artist, or a frame without a caption.
        """
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        found = {int(frame) for _, frame in MARKED.findall(text)}
        if not found or max(found) >= len(self.captions):
            raise FlatlibError(f"frames: {len(self.captions)} captions for the marked frames {sorted(found)}")
        text = MARKED.sub(self._group, text[text.index("<svg ") :])
        return re.sub(r"\n\s*", "\n", text).strip()

    def _group(self, found: re.Match[str]) -> str:
        kind, frame = found[1], int(found[2])
        hidden = ' style="display: none"' if kind == "now" and frame < len(self.captions) - 1 else ""
        return f'<g data-{kind}="{frame}"{hidden}'


def sharpening(track: pd.DataFrame, losses: pd.DataFrame, spectra: pd.DataFrame, learning_rate: float) -> Figure:
    r"""Draw one run of full-batch gradient descent for :class:`Frames`, one per row of ``track`` (Cohen et al. 2021).

    A frame shows the sharpness and the loss up to its update, and the spectral density there, with the line 2/eta.

    Args:
        track: Columns update and lambda_max, in order.
        losses: Columns update and train_loss, in order, at the updates of ``track`` and any number between them: the
            loss may change faster than the sharpness can be measured.
        spectra: One row per node, with columns update, node, weight; nodes below zero are drawn too.
        learning_rate: Learning rate eta of the line.

    Raises:
        FlatlibError: A missing column, no rows, or updates of ``track`` without a loss or a spectrum.
    """
    require_columns(track, ("update", "lambda_max"))
    require_columns(losses, ("update", "train_loss"))
    require_columns(spectra, ("update", "node", "weight"))
    if track.empty or not set(track["update"]) <= set(spectra["update"]) & set(losses["update"]):
        raise FlatlibError("every row of the track needs a loss and a spectrum, and there must be at least one")
    edge = 2 / learning_rate
    fig = Figure(figsize=SIZE)  # not pyplot's: a notebook would show it a second time
    top, middle, bottom = fig.subplots(3, 1, height_ratios=[1.3, 1, 1.3])
    moments = track["update"].to_list()
    _draw_until(track, "lambda_max", moments, top, GREEN)
    _draw_until(losses, "train_loss", moments, middle, PURPLE)
    middle.set_yscale("log")
    format_log_ticks(middle.yaxis, losses["train_loss"].max() / losses["train_loss"].min())
    top.axhline(edge, **DASHED)
    label_theory(top, track["update"].iloc[0], edge, EDGE)
    top.set(xlabel="", ylim=(0, 1.1 * max(edge, track["lambda_max"].max())))
    _draw_spectra(spectra[spectra["weight"] > 0], moments, bottom)
    bottom.axvline(edge, **DASHED)
    return fig


def _draw_until(table: pd.DataFrame, column: str, moments: list[int], ax: Axes, color: str) -> None:
    """Draw the curve up to each frame: a piece that stays, and a dot at the moment."""
    values = table.set_index("update")[column]
    for frame, moment in enumerate(moments):
        if frame:
            piece = values.loc[moments[frame - 1] : moment]
            ax.plot(piece.index, piece, color=color, gid=f"since-{frame}")
        ax.plot(moment, values[moment], "o", color=color, gid=f"now-{frame}")
    ax.set(xlabel=COLUMNS["update"].label, ylabel=COLUMNS[column].label)


def _draw_spectra(spectra: pd.DataFrame, moments: list[int], ax: Axes) -> None:
    """Draw the nodes of each frame as stems; the largest one in the sharpness's colour."""
    foot = spectra["weight"].min() / 3
    for frame, moment in enumerate(moments):
        rows = spectra[spectra["update"] == moment].sort_values("node")
        x, heights = rows["node"].to_numpy(), rows["weight"].to_numpy()
        gap = np.full_like(x, np.nan)  # one broken line through all stems: a path is smaller than a collection of them
        ends = np.stack([np.full_like(x, foot), heights, gap], 1)
        ax.plot(np.stack([x, x, gap], 1).ravel(), ends.ravel(), color=INK, linewidth=1.0, gid=f"now-{frame}")
        ax.plot(x[-1], heights[-1], "o", color=GREEN, markeredgecolor=BLACK, gid=f"now-{frame}")
    ax.set_yscale("log")
    ax.set(xlabel=X_LABEL, ylabel=Y_LABEL, ylim=(foot, 2))
