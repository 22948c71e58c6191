"""A run on a worker of a Dask cluster, which first checks that the worker gives the numbers of this process."""

import importlib
import pickle
from typing import Any

from flatlib.errors import FlatlibError

PACKAGES = "flatlib", "torch"  # whose versions determine a number


class Unsuitable(FlatlibError):
    """Worker that must not train: what is wrong with it, and the remedy."""


class Call:
    """Function and arguments that are called as they are unpickled.

    A worker that cannot import the function of a task dies when it reads the task. It can always import `pickle.loads`;
    if that is the function, and a pickled call its argument, what fails is the task.
    """

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def version(package: str) -> str:
    """Return the version of a package, as imported here."""
    return str(importlib.import_module(package).__version__)


def check_worker(expected: dict[str, str]) -> None:
    """Raise `Unsuitable` if the worker of this task has threads, which share torch's settings, or other versions."""
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads > 1:
        raise Unsuitable(f"has {threads} threads; start it with 1")
    for package, wanted in expected.items():
        try:
            found = version(package)
        except Exception as error:
            raise Unsuitable(f"cannot import {package} ({error}); install it there") from error
        if found != wanted:
            raise Unsuitable(f"has {package} {found}; install {wanted} there, as here")


def run_checked(expected: dict[str, str], run: bytes) -> Any:
    """Check the worker, then unpickle a function and its arguments and return its value."""
    check_worker(expected)
    try:
        function, *arguments = pickle.loads(run)
    except Exception as error:
        raise Unsuitable(f"cannot load its run ({error}); install the same packages there as here") from error
    return function(*arguments)
