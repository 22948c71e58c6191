"""Code and prose of a notebook, for the tests of chapters and of method pages."""


def code(page) -> list:
    """Return the code cells."""
    return [cell for cell in page.cells if cell.cell_type == "code"]


def prose(page) -> str:
    """Return all Markdown."""
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
