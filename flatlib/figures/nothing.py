"""A figure with nothing to draw says so in its place: a page rerun at odd settings still reads to its end."""

import functools
import inspect
from collections.abc import Callable

from flatlib.errors import FlatlibError


class EmptyPlot(FlatlibError):
    """The table holds no run that this figure could show; the message says why."""


def placeholder_if_empty(draw: Callable[..., None]) -> Callable[..., None]:
    """`draw`, which has an argument `ax`, writing the reason there when it raises `EmptyPlot`."""
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def drawn(*args: object, **kwargs: object) -> None:
        try:
            draw(*args, **kwargs)
        except EmptyPlot as reason:
            ax = signature.bind(*args, **kwargs).arguments["ax"]
            ax.set_axis_off()
            ax.text(0.5, 0.5, str(reason), transform=ax.transAxes, ha="center", va="center", wrap=True)

    return drawn
