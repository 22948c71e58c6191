"""What the book's page Explorer needs, made from the committed records each time the book is built.

axes     what can be put on an axis, by its name in plain text
runs     every committed run, once, in columns
files    the data, BokehJS and the picture for readers without scripts, written where the page finds them
"""

from flatlib.book.explorer.files import write
from flatlib.book.explorer.runs import columns

__all__ = ["columns", "write"]
