"""The benchmark of the largest eigenvalue: every library at the loosest tolerance that gives the same accuracy."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from flatlib.bench.libraries import LIBRARIES, unusable
from flatlib.bench.memory import peak_memory_of
from flatlib.bench.problems import Problem
from flatlib.bench.timing import alternating, geometric_mean, median_ratio, using_threads
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.precision import full_precision

ACCURACY = 1e-3
"""Relative error against float64 that every answer must have from every start."""
REFERENCE_TOLERANCE = 1e-5
MOST_STEPS = 200


def benchmark(problems: Iterable[Problem], repeats: int = 5, threads: int = 1) -> list[dict[str, Any]]:
    """One entry for each problem: the reference, and for each library its tolerance, products, errors and seconds.

    A library's effort is the least of its own (the loosest tolerance, the fewest steps) that brings every one of
    `repeats` starts within `ACCURACY` of the float64 eigenvalue. Each call starts from nothing: it builds its operator.
    Memory is that of one such call in a process of its own.
    """
    with using_threads(threads), full_precision():
        return [_entry(problem, repeats) for problem in problems]


def _entry(problem: Problem, repeats: int) -> dict[str, Any]:
    _say(f"{problem.name}: float64 reference")
    exact = reference(problem)
    entry: dict[str, Any] = {"problem": problem.name, "lambda_max": exact}
    calls: dict[str, Callable[[int], object]] = {}
    for name in LIBRARIES:
        _say(f"{problem.name}: {name}")
        entry[name] = calibrated(name, problem, exact, repeats)
        if "effort" in entry[name]:
            calls[name] = partial(LIBRARIES[name].solve, problem, entry[name]["effort"])
            entry[name]["bytes"] = peak_memory_of(name, problem, entry[name]["effort"])
    entry["oracle"], calls["oracle"] = oracle(problem, exact, repeats)
    for name, seconds in alternating(calls, repeats).items():
        entry[name]["seconds"] = seconds
    return entry


def calibrated(name: str, problem: Problem, exact: float, repeats: int) -> dict[str, Any]:
    """The least effort that is accurate from every start, with the products and errors; or why there is none."""
    reason = unusable(name, problem)
    if reason is not None:
        return {"missing": reason}
    library = LIBRARIES[name]
    errors: list[float] = []
    for effort in library.efforts:
        products, errors = [], []
        for seed in range(repeats):
            answer = library.solve(problem, effort, seed)
            products.append(answer.products)
            errors.append(abs(answer.value - exact) / abs(exact))
            if errors[-1] > ACCURACY:
                break
        else:
            return {"effort": effort, "products": products, "errors": errors}
    return {"missing": f"off by {errors[-1]:.1e} at {effort:g}"}


def oracle(problem: Problem, exact: float, repeats: int) -> tuple[dict[str, Any], Callable[[int], object]]:
    """The products after which a Lanczos iteration's error is below `ACCURACY`, from the same random starts, and a call
    that makes one product with a kept graph: what an iteration costs that is told when to stop, its graph for free."""
    operator = HessianOperator(problem.model, problem.loss, problem.batches, batch_norm=problem.batch_norm)
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


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def reference(problem: Problem) -> float:
    """The largest eigenvalue in float64, from two starts, the higher one."""
    operator = HessianOperator(
        problem.model, problem.loss, problem.batches, batch_norm=problem.batch_norm, dtype=torch.float64
    )
    found = [top_eigenvalues(operator, tol=REFERENCE_TOLERANCE, start="random", seed=seed) for seed in (1001, 1002)]
    return max(float(one.values[0]) for one in found)


def ratios(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """How many times longer each library took than flatlib at equal accuracy, and flatlib than the oracle's products.

    A library that is missing or did not get there is NaN.
    """
    rows = {}
    for entry in entries:
        ours = entry["flatlib"].get("seconds")
        row = {name: _slower(entry[name], ours) for name in LIBRARIES if name != "flatlib"}
        cost = float(np.median(entry["oracle"]["products"])) * np.array(entry["oracle"]["seconds"])
        row["flatlib / oracle"] = median_ratio(ours, list(cost)) if ours else np.nan
        rows[entry["problem"]] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("problem")


def _slower(library: dict[str, Any], ours: list[float] | None) -> float:
    return median_ratio(library["seconds"], ours) if ours and "seconds" in library else np.nan


def needs(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """What each library needed for the same accuracy, as texts: effort, products, largest error, time, memory."""
    needed = []
    for entry in entries:
        for name in (*LIBRARIES, "oracle"):
            one = entry[name]
            needed.append(
                {
                    "problem": entry["problem"],
                    "library": name,
                    "effort": f"{one['effort']:g}" if "effort" in one else "",
                    "products": f"{np.median(one['products']):g}" if "products" in one else one["missing"],
                    "error": f"{max(one['errors']):.0e}" if "errors" in one else "",
                    "seconds": f"{np.median(one['seconds']):.3f}" if "seconds" in one else "",
                    "MiB": f"{one['bytes'] / 2**20:.0f}" if "bytes" in one else "",
                }
            )
    return pd.DataFrame(needed)


def report(entries: list[dict[str, Any]]) -> str:
    """What each library needed, and the ratios of the times, as text."""
    slower = ratios(entries)
    summary = [
        f"{name}: {slower[name].min():.2f} to {slower[name].max():.2f}, geometric mean "
        f"{geometric_mean(slower[name].dropna()):.2f}, over {slower[name].count()} of {len(slower)} problems"
        for name in slower
        if slower[name].count()
    ]
    tables = [needs(entries).to_string(index=False), slower.round(2).to_string(na_rep="-"), "\n".join(summary)]
    return "\n\n".join(tables)
