"""A figure in frames with a slider: one SVG that holds them all, the last one shown where there are no scripts."""

import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from flatlib.errors import FlatlibError

NOW, SINCE = "now", "since"
"""What is drawn in one frame only, and what stays from its frame on."""
MARKED = re.compile(rf'<g id="({NOW}|{SINCE})-(\d+)"')


def in_frame(artist: Artist, frame: int) -> None:
    """Show the artist in this frame only."""
    artist.set_gid(f"{NOW}-{frame}")


def from_frame(artist: Artist, frame: int) -> None:
    """Show the artist in this frame and all later ones. An artist that is not marked is in every frame."""
    artist.set_gid(f"{SINCE}-{frame}")


@dataclass(frozen=True)
class Frames:
    """A figure whose artists are marked with their frames, for a notebook to display.

    In the book `frames.js` gives the slider its life: arrow keys and a button move through the frames. Elsewhere the
    last frame is shown, without controls.

    figure: with the marked artists.
    captions: of each frame, in words, such as "update 8: loss 2.3"; they are read aloud as the slider's value.
    name: of the figure, unique on its page.
    slider: what the slider moves through, such as "Update".
    alt: what the figure shows.
    """

    figure: Figure
    captions: Sequence[str]
    name: str
    slider: str
    alt: str

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.alt}

    def html(self) -> str:
        """The SVG, and below it a button, a labelled slider and the frame's caption, hidden until a script runs."""
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
        """The figure as an `svg` element; a group in a frame has the attribute ``data-now`` or ``data-since``."""
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
        hidden = ' style="display: none"' if kind == NOW and frame < len(self.captions) - 1 else ""
        return f'<g data-{kind}="{frame}"{hidden}'
