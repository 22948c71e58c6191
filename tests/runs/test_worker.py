"""A worker checks itself before it unpickles a run."""

import pickle
import sys
from types import SimpleNamespace

import distributed
import pytest
import torch

import flatlib
from flatlib.runs.worker import Call, Unsuitable, run_checked

HERE = {"flatlib": flatlib.__version__, "torch": str(torch.__version__)}


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads of the worker that this process takes itself for."""

    def set_threads(number: int) -> None:
        worker = SimpleNamespace(state=SimpleNamespace(nthreads=number))
        monkeypatch.setattr(distributed, "get_worker", lambda: worker)

    set_threads(1)
    return set_threads


def test_unpickling_is_the_call(threads):
    assert pickle.loads(pickle.dumps(Call(run_checked, HERE, pickle.dumps((max, 1, 2))))) == 2


def test_several_threads_are_refused(threads):
    threads(2)
    with pytest.raises(Unsuitable, match=r"^has 2 threads; start it with 1$"):
        run_checked({}, b"never unpickled")


@pytest.mark.parametrize("package", HERE)
def test_other_version_is_refused(threads, package):
    with pytest.raises(Unsuitable, match=rf"^has {package} {HERE[package].replace('+', '.')}; install 0\.0 there"):
        run_checked(HERE | {package: "0.0"}, b"never unpickled")


def test_broken_package_is_refused(threads, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    with pytest.raises(Unsuitable, match=r"^cannot import torch \(.*__version__.*\); install it there$"):
        run_checked(HERE, b"never unpickled")


def test_run_that_cannot_be_imported_is_refused(threads):
    with pytest.raises(Unsuitable, match=r"^cannot load its run \(No module named 'absent'\); install the same"):
        run_checked(HERE, b"cabsent\nrun_one\n.")


def test_error_of_a_run_is_its_own(threads):
    with pytest.raises(ZeroDivisionError):
        run_checked(HERE, pickle.dumps((divmod, 1, 0)))
