"""What a notebook says and how much code it shows, for the tests of chapters and of method pages."""


def code(page) -> list:
    """The code cells."""
    return [cell for cell in page.cells if cell.cell_type == "code"]


def prose(page) -> str:
    """All Markdown."""
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
