"""The command line: run chapters, refresh what is published, render the book, measure, look after records."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from flatlib import __version__
from flatlib.cli import bench, chapters, measure, records
from flatlib.errors import FlatlibError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; bad input is one line on stderr and exit code 2, an interrupt keeps every finished run."""
    options = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"flatlib: warning: {message}", file=sys.stderr)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except FlatlibError as error:
        print(f"flatlib: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `flatlib records show ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("flatlib: interrupted; every finished run is in the record, the same command goes on", file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """Parser that reports a wrong argument as all bad input is reported: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where help is, and exit."""
        self.exit(2, f"flatlib: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = Parser(prog="flatlib", description="Sharpness and generalization, claim by claim.")
    top.add_argument("--version", action="version", version=f"flatlib {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for group in (chapters, measure, bench, records):
        group.add(commands)
    return top
