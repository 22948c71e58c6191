"""Outputs of a page: tables, Markdown, and values for its prose and for other pages to quote."""

import html
import inspect
from collections.abc import Callable

import pandas as pd

GLUE_PREFIX = "application/papermill.record/"  # of the outputs that myst-nb stores and does not show


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


def show_verdict(claim: str, verdict: str, scale: str, reason: str) -> None:
    """Display a claim with its verdict as a card of plain HTML, which needs no style of the book."""
    from IPython.display import display

    lines = [f"Claim. {claim}", f"{verdict} ({scale})", f"{reason}."]
    first, second, third = map(html.escape, lines)
    frame = "border: 1px solid; border-radius: 4px; padding: 0.5em 1em; max-width: 45em"
    page = f'<div style="{frame}"><p>{first}</p><p><strong>{second}</strong></p><p>{third}</p></div>'
    display({"text/html": page, "text/plain": "\n".join(lines)}, raw=True)


def glue_texts(**texts: object) -> None:
    """Glue each value as text under its name, for prose on this page and on others.

    The book shows it in the prose only. Where the prose shows its markup, "name = value" stands below the cell.
    """
    from IPython.display import display

    for name, text in texts.items():
        about = {"scrapbook": {"name": name, "mime_prefix": GLUE_PREFIX}}  # as myst_nb.glue has it
        data = {f"{GLUE_PREFIX}text/plain": repr(str(text)), "text/plain": f"{name} = {text}"}
        display(data, raw=True, metadata=about)


def glue_figure(name: str, figure: object) -> None:
    """Glue the display of a figure under `name`, for the directive ``glue:figure``, which adds a caption."""
    from myst_nb import glue

    glue(name, figure, display=True)
