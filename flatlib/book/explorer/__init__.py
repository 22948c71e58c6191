"""Data and files of the book's page Explorer, made from the committed records each time the book is built."""

from flatlib.book.explorer.files import write
from flatlib.book.explorer.runs import columns

__all__ = ["columns", "write"]
