"""The largest eigenvalue of one problem's Hessian as each library's documentation computes it, from scratch."""

import copy
import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import pyhessian
import scipy.sparse.linalg
import torch
from torch import nn

from flatlib.bench.problems import Problem
from flatlib.curvature import HessianOperator, top_eigenvalues

MOST_PRODUCTS = 300
"""Limit of the power iteration, which has no certificate and may crawl."""


class Answer(NamedTuple):
    """The eigenvalue and the products it took."""

    value: float
    products: int


class Library(NamedTuple):
    """How to call a library, and the tolerances to try for a given accuracy, the loosest first."""

    solve: Callable[[Problem, float, int], Answer]
    tolerances: tuple[float, ...]
    package: str


def by_flatlib(problem: Problem, tolerance: float, seed: int) -> Answer:
    """Lanczos, started from a subsample's eigenvector, stopped on the residual."""
    operator = HessianOperator(problem.model, "cross_entropy", (problem.x, problem.y), batch_norm=problem.batch_norm)
    found = top_eigenvalues(operator, tol=tolerance, seed=seed)
    return Answer(float(found.values[0]), found.products)


def by_pyhessian(problem: Problem, tolerance: float, seed: int) -> Answer:
    """Power iteration, stopped on the change of the value; all data as one batch, whose gradient's graph it keeps."""
    torch.manual_seed(seed)
    module = sys.modules[pyhessian.hessian.__module__]
    counted = mock.patch.object(module, "hessian_vector_product", wraps=module.hessian_vector_product)
    with warnings.catch_warnings(), counted as multiply:
        warnings.simplefilter("ignore")
        hessian = pyhessian.hessian(
            copy.deepcopy(problem.model),
            nn.functional.cross_entropy,
            data=(problem.x, problem.y),
            cuda=problem.x.device.type == "cuda",
        )
        (value,), _ = hessian.eigenvalues(maxIter=MOST_PRODUCTS, tol=tolerance, top_n=1)
    return Answer(value, multiply.call_count)


def by_curvlinops(problem: Problem, tolerance: float, seed: int) -> Answer:
    """curvlinops' operator in ARPACK (`scipy.sparse.linalg.eigsh`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.func compiles its rules with torch.jit
        from curvlinops import HessianLinearOperator

    model = problem.model.eval()
    operator = HessianLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        [p for p in model.parameters() if p.requires_grad],
        [(problem.x, problem.y)],
        check_deterministic=False,
    ).to_scipy()
    products = 0

    def count(v):
        nonlocal products
        products += 1
        return operator @ v

    counted = scipy.sparse.linalg.LinearOperator(operator.shape, matvec=count, dtype=operator.dtype)
    start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.func compiles its rules with torch.jit
        (value,) = scipy.sparse.linalg.eigsh(counted, 1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)
    return Answer(float(value), products)


LIBRARIES = {
    "flatlib": Library(by_flatlib, (1e-1, 3e-2, 1e-2, 3e-3, 1e-3), "flatlib"),
    "flatlib, certified": Library(by_flatlib, (1e-3,), "flatlib"),
    "PyHessian": Library(by_pyhessian, (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6), "pyhessian"),
    "curvlinops + eigsh": Library(by_curvlinops, (1e-1, 1e-2, 1e-3), "curvlinops"),
}


def unusable(name: str, problem: Problem) -> str | None:
    """Why this library cannot measure this problem here; None if it can."""
    if importlib.util.find_spec(LIBRARIES[name].package) is None:
        return "not installed"
    if problem.batch_norm == "train" and LIBRARIES[name].solve is not by_flatlib:
        return "cannot: evaluation mode only"
    return None
