"""Outputs of a page: tables, Markdown, and values for its prose and for other pages to quote."""

import html
import inspect
from collections.abc import Callable

import pandas as pd


def show(table: pd.DataFrame) -> None:
    """Display a table without its index; a column named ``verdict`` is shown as badges.

    The output is a function of the table alone, so that nbval can compare it.
    """
    from IPython.display import display

    table = table.rename_axis(columns=None)
    cells = table.map(lambda value: html.escape(str(value)))
    if "verdict" in cells:
        cells["verdict"] = '<span class="verdict">' + cells["verdict"] + "</span>"
    with pd.option_context("display.max_colwidth", None):
        page = cells.to_html(index=False, escape=False, border=0, justify="left")
        text = table.to_string(index=False, justify="left")
    display({"text/html": page, "text/plain": text}, raw=True)


def show_markdown(text: str) -> None:
    """Display MyST Markdown; the book reads it as such if the cell's metadata has ``markdown_format: myst``."""
    from IPython.display import display

    display({"text/markdown": text, "text/plain": text}, raw=True)


def show_source(*functions: Callable) -> None:
    """Display the source of functions, such as the grid of a chapter's runs."""
    show_markdown("```python\n" + "\n\n".join(map(inspect.getsource, functions)) + "```")


def glue_texts(**texts: object) -> None:
    """Glue each value as text under its name, for prose on this page and on others."""
    from myst_nb import glue

    for name, text in texts.items():
        glue(name, str(text), display=False)


def glue_figure(name: str, figure: object) -> None:
    """Glue the display of a figure under `name`, for the directive ``glue:figure``, which adds a caption."""
    from myst_nb import glue

    glue(name, figure, display=True)
