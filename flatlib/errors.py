"""Errors with a one-line message: the setting, what is wrong with it and what is allowed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["FlatlibError", "NotDefined", "NotFinite"]


class FlatlibError(Exception):
    """Invalid input or an impossible request; the command line prints it without a traceback and exits with 2."""


class NotFinite(FlatlibError):
    """Infinite or NaN loss, gradient or output, of which nothing can be measured."""


class NotDefined(FlatlibError):
    """Measure without a value for this network; it is recorded as missing and the run continues."""


def require_one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a `FlatlibError` that names the setting and the allowed values, unless `value` is one of them."""
    if value not in allowed:
        raise FlatlibError(f"{name}: unknown name {value!r}; allowed: {', '.join(allowed)}")


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Turn an error of the user's code or PyTorch's into a `FlatlibError`: `message` and the error's first line.

    The original error is its cause.
    """
    try:
        yield
    except FlatlibError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise FlatlibError(f"{message}: {type(error).__name__}: {reason}") from error
