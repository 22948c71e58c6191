"""The exceptions a user is meant to read: what is wrong, where, and what is allowed, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FlatlibError", "NotDefined", "NotFinite"]


class FlatlibError(Exception):
    """Bad input or an impossible request. The command line prints it without a traceback and exits with 2."""


class NotFinite(FlatlibError):
    """A loss, a gradient or an output is infinite or not a number: nothing can be measured there."""


class NotDefined(FlatlibError):
    """A measure has no value for this network: it is recorded as missing, and the run goes on."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """An error of the reader's code or PyTorch's, run inside, becomes a `FlatlibError`: `what` and its first line.

    The original is its cause, for whoever wants the traceback.
    """
    try:
        yield
    except FlatlibError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise FlatlibError(f"{what}: {type(error).__name__}: {reason}") from error
