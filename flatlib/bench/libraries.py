"""Largest eigenvalue of a problem's Hessian as each library's documentation computes it."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import pyhessian
import scipy.sparse.linalg
import torch

from flatlib.bench.problems import Problem
from flatlib.curvature import top_eigenvalues

MOST_PRODUCTS = 300  # of the power iteration, which has no certificate and may crawl
MOST_ENTRIES = 5000**2  # of a dense Hessian; the next larger network would fill the memory


class Eigenvalue(NamedTuple):
    """Eigenvalue and the number of products it took."""

    value: float
    products: int


class Library(NamedTuple):
    """Library and the way to call it.

    Attributes:
        solve: Function of (problem, effort, seed); an effort of None is the library's default.
        efforts: Tolerances, or numbers of steps, to try for a given accuracy, the cheapest first.
        package: Package that must be installed.
    """

    solve: Callable[[Problem, float | None, int], Eigenvalue]
    efforts: tuple[float, ...]
    package: str


def by_flatlib(problem: Problem, tolerance: float | None, seed: int, engine: str = "lanczos") -> Eigenvalue:
    """Run Lanczos from a subsample's eigenvector until the residual is small."""
    found = top_eigenvalues(problem.hessian(), tol=tolerance or 1e-3, seed=seed, engine=engine)
    return Eigenvalue(float(found.values[0]), found.products)


@contextmanager
def pyhessian_of(problem: Problem) -> Iterator[tuple[Any, mock.MagicMock]]:
    """Yield PyHessian's Hessian and the counter of its products; a single batch keeps the graph of its gradient."""
    module = sys.modules[pyhessian.hessian.__module__]
    counted = mock.patch.object(module, "hessian_vector_product", wraps=module.hessian_vector_product)
    one = len(problem.batches) == 1
    data = {"data": problem.batches[0]} if one else {"dataloader": problem.batches}
    with warnings.catch_warnings(action="ignore"), counted as multiply:
        try:
            yield pyhessian.hessian(problem.model, problem.loss, **data, cuda=problem.device.type == "cuda"), multiply
        finally:  # what it leaves would be added to the gradients of the next call
            problem.model.zero_grad()


def curvlinops_of(problem: Problem, check: bool = False) -> Any:
    """Return curvlinops' Hessian, whose check for deterministic products takes time."""
    from curvlinops import HessianLinearOperator

    model = problem.model.train(problem.batch_norm == "train")
    parameters = [p for p in model.parameters() if p.requires_grad]
    return HessianLinearOperator(model, problem.loss, parameters, problem.batches, check_deterministic=check)


def eigenthings_of(problem: Problem) -> Any:
    """Return hessian-eigenthings' Hessian."""
    import hessian_eigenthings as library

    model = problem.model.train(problem.batch_norm == "train")
    return library.HessianOperator(model, problem.batches, library.supervised_loss(problem.loss))


def by_pyhessian(problem: Problem, tolerance: float | None, seed: int) -> Eigenvalue:
    """Run power iteration until the value changes little."""
    torch.manual_seed(seed)
    options = {} if tolerance is None else {"maxIter": MOST_PRODUCTS, "tol": tolerance}
    with pyhessian_of(problem) as (hessian, multiply):
        (value,), _ = hessian.eigenvalues(top_n=1, **options)
    return Eigenvalue(value, multiply.call_count)


def by_curvlinops(problem: Problem, tolerance: float | None, seed: int) -> Eigenvalue:
    """Run ARPACK (`scipy.sparse.linalg.eigsh`) on curvlinops' operator."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch.func compiles rules with torch.jit
        operator = curvlinops_of(problem, check=tolerance is None).to_scipy()
        products = 0

        def count(v):
            nonlocal products
            products += 1
            return operator @ v

        counted = scipy.sparse.linalg.LinearOperator(operator.shape, matvec=count, dtype=operator.dtype)
        start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
        options = {"which": "LA", "tol": tolerance or 0, "v0": start}
        (value,) = scipy.sparse.linalg.eigsh(counted, 1, return_eigenvectors=False, **options)
    return Eigenvalue(float(value), products)


def by_eigenthings(problem: Problem, steps: float | None, seed: int) -> Eigenvalue:
    """Run hessian-eigenthings' Lanczos for a fixed number of steps."""
    import hessian_eigenthings as library

    operator = eigenthings_of(problem)
    limit = None if steps is None else min(int(steps), operator.size)
    found = library.lanczos(operator, k=1, max_iter=limit, which="LA", seed=seed)
    return Eigenvalue(float(found.eigenvalues[0]), found.iterations)


def by_dense(problem: Problem, effort: float | None, seed: int) -> Eigenvalue:
    """Compute all entries with `torch.func.hessian` and use LAPACK; the only error is rounding."""
    model = problem.model.train(problem.batch_norm == "train")
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]
    x, y = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))

    def loss(flat):
        pieces = zip(named.items(), flat.split(sizes), strict=True)
        parameters = {name: piece.view_as(p) for (name, p), piece in pieces}
        return problem.loss(torch.func.functional_call(model, parameters, (x,)), y)

    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        dense = torch.func.hessian(loss)(torch.cat([p.flatten() for p in named.values()]))
    return Eigenvalue(float(torch.linalg.eigvalsh(dense)[-1]), sum(sizes))


TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
LIBRARIES = {
    "flatlib": Library(by_flatlib, TOLERANCES, "flatlib"),
    "flatlib, certified": Library(by_flatlib, (1e-3,), "flatlib"),
    "PyHessian": Library(by_pyhessian, (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6), "pyhessian"),
    "curvlinops + eigsh": Library(by_curvlinops, (1e-1, 1e-2, 1e-3), "curvlinops"),
    "hessian-eigenthings": Library(by_eigenthings, (5, 10, 15, 20, 30, 40, 50), "hessian_eigenthings"),
    "dense Hessian": Library(by_dense, (1,), "torch"),
}
# PyHessian's products behind flatlib's guards
PYHESSIAN_ENGINE = Library(partial(by_flatlib, engine="pyhessian"), TOLERANCES, "flatlib")


def unusable(name: str, problem: Problem) -> str | None:
    """Return why this library cannot measure this problem here; None if it can."""
    if importlib.util.find_spec(LIBRARIES[name].package) is None:
        return "not installed"
    if problem.batch_norm == "train" and name in ("PyHessian", "curvlinops + eigsh", "dense Hessian"):
        return "cannot: evaluation mode only"
    if name == "dense Hessian" and sum(p.numel() for p in problem.model.parameters()) ** 2 > MOST_ENTRIES:
        return "too large"
    return None
