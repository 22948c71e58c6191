"""The benchmark of the largest eigenvalue: every library at the loosest tolerance that gives the same accuracy."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from flatlib.bench.libraries import LIBRARIES, unusable
from flatlib.bench.problems import NAMES, Problem
from flatlib.bench.timing import alternating, geometric_mean, median_ratio, peak_memory_of
from flatlib.curvature import top_eigenvalues
from flatlib.curvature.spectrum.lanczos import Lanczos

CASES = NAMES
ACCURACY = 1e-3  # largest relative error against float64, from every start
REFERENCE_TOLERANCE = 1e-5  # of the float64 eigenvalue, a hundredth of the accuracy
MOST_STEPS = 200  # of the oracle's Lanczos iteration


def benchmark(problem: Problem, repeats: int) -> dict[str, Any]:
    """Return the reference, and each library's least accurate effort, products, errors, seconds and memory.

    Each call builds its operator; memory is that of one call in a process of its own.
    """
    print(f"{problem.name}: float64 reference", file=sys.stderr, flush=True)
    exact = reference(problem)
    entry: dict[str, Any] = {"problem": problem.name, "lambda_max": exact}
    calls: dict[str, Callable[[int], object]] = {}
    for name in LIBRARIES:
        print(f"{problem.name}: {name}", file=sys.stderr, flush=True)
        entry[name] = calibrate(name, problem, exact, repeats)
        if "effort" in entry[name]:
            calls[name] = partial(LIBRARIES[name].solve, problem, entry[name]["effort"])
            entry[name]["bytes"] = peak_memory_of(name, problem, entry[name]["effort"])
    entry["oracle"], calls["oracle"] = oracle(problem, exact, repeats)
    for name, seconds in alternating(calls, repeats).items():
        entry[name]["seconds"] = seconds
    return entry


def calibrate(name: str, problem: Problem, exact: float, repeats: int) -> dict[str, Any]:
    """Return the least effort that brings every start within `ACCURACY`, its products and errors, or why there is none.

    The effort is the loosest tolerance, or the fewest steps.
    """
    if reason := unusable(name, problem):
        return {"missing": reason}
    errors: list[float] = []
    for effort in LIBRARIES[name].efforts:
        products, errors = [], []
        for seed in range(repeats):
            found = LIBRARIES[name].solve(problem, effort, seed)
            products.append(found.products)
            errors.append(abs(found.value - exact) / abs(exact))
            if errors[-1] > ACCURACY:
                break
        else:
            return {"effort": effort, "products": products, "errors": errors}
    return {"missing": f"off by {errors[-1]:.1e} at {effort:g}"}


def oracle(problem: Problem, exact: float, repeats: int) -> tuple[dict[str, Any], Callable[[int], object]]:
    """Return the products that a Lanczos iteration needs if it is told when to stop, and a call that makes one.

    It starts from the same random vectors; the call's product has its graph for free.
    """
    operator = problem.hessian()
    products = []
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(operator.shape[0], generator=generator).to(operator.device)
        lanczos = Lanczos(operator.matvec, start, generator)
        while lanczos.steps < MOST_STEPS:
            lanczos.step()
            if abs(lanczos.ritz()[0][-1] - exact) <= ACCURACY * abs(exact):
                break
        products.append(lanczos.steps)
    vector = torch.ones(operator.shape[0], device=operator.device)
    return {"products": products}, lambda repeat: operator.matvec(vector)


def reference(problem: Problem) -> float:
    """Return the largest eigenvalue in float64, the higher one of two starts."""
    operator = problem.hessian(torch.float64)
    found = [top_eigenvalues(operator, tol=REFERENCE_TOLERANCE, start="random", seed=seed) for seed in (1001, 1002)]
    return max(float(one.values[0]) for one in found)


def ratios(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the time of each library in units of flatlib's at equal accuracy, and flatlib's in units of the oracle's.

    A library that is missing or not accurate is NaN.
    """
    rows = {}
    for entry in entries:
        seconds = {name: np.array(entry[name].get("seconds", np.nan)) for name in (*LIBRARIES, "oracle")}
        ours, told = seconds.pop("flatlib"), np.median(entry["oracle"]["products"]) * seconds.pop("oracle")
        rows[entry["problem"]] = {name: median_ratio(theirs, ours) for name, theirs in seconds.items()}
        rows[entry["problem"]]["flatlib / oracle"] = median_ratio(ours, told)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("problem")


def needs(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what each library needed for the accuracy, as texts: effort, products, largest error, time, memory."""
    rows = [
        {
            "problem": entry["problem"],
            "library": name,
            "effort": f"{found['effort']:g}" if "effort" in found else "",
            "products": f"{np.median(found['products']):g}" if "products" in found else found["missing"],
            "error": f"{max(found['errors']):.0e}" if "errors" in found else "",
            "seconds": f"{np.median(found['seconds']):.3f}" if "seconds" in found else "",
            "MiB": f"{found['bytes'] / 2**20:.0f}" if "bytes" in found else "",
        }
        for entry in entries
        for name in (*LIBRARIES, "oracle")
        for found in [entry[name]]
    ]
    return pd.DataFrame(rows)


def report(entries: list[dict[str, Any]]) -> str:
    """Return both tables and a summary as text."""
    slower = ratios(entries).dropna(axis="columns", how="all")
    summary = slower.agg(["min", "max", "count"]).T
    summary.insert(2, "geometric mean", [geometric_mean(slower[name].dropna()) for name in slower])
    tables = [slower.round(2).to_string(na_rep="-"), summary.round(2).to_string()]
    return "\n\n".join([needs(entries).to_string(index=False), *tables])
