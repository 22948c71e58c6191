"""A figure of several panels as one SVG with two views: side by side, and one below the other for a phone."""

import io
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

NARROW = "narrow"  # name of the second view, `figure.svg#narrow`
WIDEST = 5.0  # inches; scaled to a phone's 342 px, tick labels of 8.5 points are then 8 px high
POINTS = 72  # per inch, the unit of matplotlib's SVGs
METADATA = {"Date": None, "Creator": None}  # the same figure gives the same bytes

Box = tuple[float, float, float, float]  # left, top, width and height in points, from the figure's upper left corner


def svg_with_panels(figure: Figure) -> str | None:
    """Return a figure as SVG, or None if it has no axes.

    A single panel is at most ``WIDEST`` inches wide. A wider figure of several panels also has the view ``narrow``,
    which shows the same drawing panel by panel, one below the other.
    """
    if not figure.axes:
        return None
    if figure.get_figwidth() > WIDEST and len(cuts(figure)[0]) == 2:
        figure.set_figwidth(WIDEST)
    for ax in figure.axes:
        ax.yaxis.set_tick_params(labelleft=ax.yaxis.get_tick_params().get("left", True))  # each panel is read alone
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches=None, metadata=METADATA)
    drawn = file.getvalue()
    tiles = panel_boxes(figure) if figure.get_figwidth() > WIDEST else []
    return drawn.replace("</svg>", f"{stacked(tiles, POINTS * figure.get_figheight())}</svg>") if tiles else drawn


def stacked(tiles: list[Box], below: float) -> str:
    """Return a view of tiles of the drawing, one below the other, placed below the drawing itself."""
    width, height = max(tile[2] for tile in tiles), sum(tile[3] for tile in tiles)
    parts, top = [f'<view id="{NARROW}" viewBox="0 {below:.1f} {width:.1f} {height:.1f}"/>\n'], below
    for tile in tiles:
        box = " ".join(f"{number:.1f}" for number in tile)
        place = f'y="{top:.1f}" width="{tile[2]:.1f}" height="{tile[3]:.1f}"'
        parts.append(f'<svg {place} viewBox="{box}"><use href="#figure_1"/></svg>\n')
        top += tile[3]
    return "".join(parts)


def panel_boxes(figure: Figure) -> list[Box]:
    """Return the box of each panel, row by row; boxes share the edges between rows and columns."""
    across, down = cuts(figure)
    return [
        (left, top, right - left, bottom - top) for top, bottom in pairwise(down) for left, right in pairwise(across)
    ]


def cuts(figure: Figure) -> tuple[list[float], list[float]]:
    """Return where the edges of the columns and of the rows of a figure's panels are, in points."""
    figure.draw_without_rendering()
    scale, height = POINTS / figure.dpi, POINTS * figure.get_figheight()
    columns: dict[int, list[tuple[float, float]]] = {}
    rows: dict[int, list[tuple[float, float]]] = {}
    for ax in figure.axes:
        if (place := ax.get_subplotspec()) is None:
            continue
        left, bottom, right, top = (scale * edge for edge in _extents(ax))
        columns.setdefault(place.colspan.start, []).append((left, right))
        rows.setdefault(place.rowspan.start, []).append((height - top, height - bottom))
    return _edges(columns, POINTS * figure.get_figwidth()), _edges(rows, height)


def _extents(ax: Axes) -> tuple[float, float, float, float]:
    """Return the box of everything that belongs to an axes, in pixels."""
    box = ax.get_tightbbox()
    assert box is not None  # None only for axes that are not drawn
    return box.extents


def _edges(parts: dict[int, list[tuple[float, float]]], end: float) -> list[float]:
    """Return 0, the middle of each gap between neighbours, and the end."""
    spans = [(min(a for a, _ in of), max(b for _, b in of)) for _, of in sorted(parts.items())]
    return [0.0, *((left[1] + right[0]) / 2 for left, right in pairwise(spans)), end]
