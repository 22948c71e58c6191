"""Several chapters at the same time, each executed from a process of its own.

A chapter spends seconds starting a kernel and drawing, in which it trains nothing: with two at a time, none waits.
"""

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from flatlib.book.execute import run
from flatlib.errors import FlatlibError
from flatlib.runs.executors import exit_with_parent, terminate_workers

CLEAR = "\x1b[K"  # terminals: erase what is left of the line


def run_several(
    root: Path, chapters: dict[str, dict[str, Any]], output: Path, at_once: int
) -> Iterator[tuple[str, str | FlatlibError]]:
    """Execute chapters into `output`, `at_once` at a time; each with its verdict line or the error that ended it.

    chapters: each one's name and checked parameters. They come back in this order, whichever finishes first.
    """
    if at_once == 1:
        for name, values in chapters.items():
            yield name, ending(root, name, values, output)
        return
    # Spawned, as the workers of a sweep are: a forked child of a process that has used CUDA may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, context, initializer=prepare) as pool:
        try:
            with interrupts_ignored():
                futures = [pool.submit(ending, root, name, values, output) for name, values in chapters.items()]
            for name, future in zip(chapters, futures, strict=True):
                yield name, future.result()
        except BaseException:
            terminate_workers(pool)
            raise


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes started here leave Ctrl-C to this one, which ends them, instead of each printing where it was."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def prepare() -> None:
    """A process that executes chapters beside others: it ends with its parent, and shares the terminal's last line."""
    exit_with_parent()
    if sys.stderr.isatty():
        sys.stderr = LastLine(sys.stderr)


class LastLine:
    """A terminal on which progress bars of several processes take turns: each clears what the other left."""

    def __init__(self, terminal: Any):
        self.terminal = terminal

    def write(self, text: str) -> None:
        """Write a piece of text; a bar begins its line again with a carriage return."""
        self.terminal.write(text.replace("\r", f"\r{CLEAR}"))

    def flush(self) -> None:
        """Show it now."""
        self.terminal.flush()


def ending(root: Path, name: str, values: dict[str, Any], output: Path) -> str | FlatlibError:
    """A chapter's verdict line, or the error that ended it; the other chapters go on."""
    page = output / f"{name}.ipynb"
    print(f"{name} at {values['preset']} -> {page}", file=sys.stderr, flush=True)
    try:
        return run(root, name, values, page)
    except FlatlibError as error:
        return error
