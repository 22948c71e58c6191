"""Benchmark of a panel of measures, in units of gradients: each alone, all together, and what other libraries need."""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

from flatlib.bench.curvature import calibrate, reference
from flatlib.bench.libraries import LIBRARIES, curvlinops_of, eigenthings_of, pyhessian_of, unusable
from flatlib.bench.problems import TRAINING, Problem
from flatlib.bench.timing import alternating, median_ratio
from flatlib.curvature import GaussNewtonOperator, HessianOperator
from flatlib.curvature.traces.hutchinson import RELATIVE_ERROR, rademacher
from flatlib.measures import REGISTRY, Checkpoint, Numbers, measure
from flatlib.sharpness.perturbed_loss import PerturbedLoss

TOLERANCE = 3e-4  # of eigenvalues, as in the chapters after Kaur et al. 2022
CASES = ("mlp trained 1000", "small_cnn trained 1000")
TOGETHER = (  # the measures of such a chapter, and a Jacobian's norm
    *("performance", "lambda_max", "trace", "frobenius", "minimum_sharpness", "sam_sharpness", "adaptive_sharpness"),
    *("jacobian_norm", "gradient_norm", "weight_norm"),
)
ERRORS = ("residual", "standard_error", "frank_wolfe_gap", "relative_error")  # companions of a measure
OTHERS = ("PyHessian", "curvlinops + eigsh", "hessian-eigenthings")
SPREAD_PROBES = 64  # from which the number of probes for an error is predicted
AT_ONCE = 8  # columns of a product by curvlinops, which keeps all


def benchmark(problem: Problem, repeats: int) -> dict[str, Any]:
    """Return the seconds of a gradient, of each measure alone and of the panel, with what they counted and reached.

    On a CPU the seconds are those of the process, in which other processes do not count. Each call makes its own
    checkpoint. The other libraries compute the quantities that they have to the same error.
    """
    checkpoint = checkpoint_of(problem)
    panels = {name: [name] for name in REGISTRY} | {"together": list(TOGETHER)}
    taken = {}
    for name, names in panels.items():
        print(f"{problem.name}: {name}", file=sys.stderr, flush=True)
        taken[name] = count(names, checkpoint)
    ((x, y),) = problem.batches
    model = problem.model.eval()
    parameters = list(model.parameters())
    calls: dict[str, Callable[[int], object]] = {
        "gradient": lambda repeat: torch.autograd.grad(problem.loss(model(x), y), parameters)
    }
    calls |= {name: partial(take, names, checkpoint) for name, names in panels.items()}
    others = libraries(problem, repeats)
    calls |= {key: call for key, (_, call) in others.items() if call is not None}
    seconds = alternating(calls, repeats, time.process_time if problem.device.type == "cpu" else time.perf_counter)
    return {
        "problem": problem.name,
        "seconds": seconds,
        "measures": taken,
        "libraries": {key: about for key, (about, _) in others.items()},
    }


def checkpoint_of(problem: Problem) -> Checkpoint:
    """Return the problem as a checkpoint."""
    ((x, y),) = problem.batches
    return Checkpoint(
        model=problem.model,
        examples=(x, y),
        train=(x, y),
        test=problem.test,
        after=problem.after,
        batch_norm=problem.batch_norm,
        tolerance=TOLERANCE,
        batch_size=min(TRAINING.batch_size, len(x)),
    )


def take(names: list[str], checkpoint: Checkpoint, repeat: int) -> Numbers:
    """Take measures of a fresh copy of the checkpoint, whose seed is the number of the repeat."""
    return measure(names, replace(checkpoint, seed=repeat))


def count(names: list[str], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the products and the gradients of a panel, and the relative error that a single measure reached."""
    with counting() as counts:
        numbers = take(names, checkpoint, 0)
    value = numbers.get(names[0])
    errors = [numbers[key] for key in (f"{names[0]}_{error}" for error in ERRORS) if key in numbers]
    if len(names) > 1 or not errors or errors[0] is None:
        return {"error": None} | counts
    return {"error": errors[0] / abs(value) if value else errors[0]} | counts


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count Hessian-vector products, those on a subspace too, and gradients at weights near and far."""
    counts = {"products": 0, "gradients": 0}

    def counted(name: str, function: Callable) -> Callable:
        def call(owner, *arguments, **named):
            counts[name] += getattr(owner, "torch_dtype", torch.float32) == torch.float32  # checks are in float64
            return function(owner, *arguments, **named)

        return call

    methods = (HessianOperator, "_product"), (GaussNewtonOperator, "_product"), (PerturbedLoss, "loss_and_gradient")
    with ExitStack() as patches:
        for owner, method in methods:
            name = "products" if method == "_product" else "gradients"
            patches.enter_context(mock.patch.object(owner, method, counted(name, getattr(owner, method))))
        yield counts


def libraries(problem: Problem, repeats: int) -> dict[str, tuple[dict[str, Any], Callable[[int], object] | None]]:
    """Return by "quantity, library" what each other library needs for an error and a call that takes it, or why not.

    An eigenvalue takes the least effort that brings every start within a thousandth, see `flatlib.bench.curvature`. A
    trace or a squared norm takes as many probes as their spread predicts for a relative standard error of 2 % of the
    trace or of the norm; all libraries draw the same kind.
    """
    found: dict[str, tuple[dict[str, Any], Callable[[int], object] | None]] = {}
    exact = reference(problem)
    for name in OTHERS:
        print(f"{problem.name}: {name}", file=sys.stderr, flush=True)
        about = calibrate(name, problem, exact, repeats)
        if "missing" in about:
            found[f"lambda_max, {name}"] = about, None
            continue
        products, error = int(np.median(about["products"])), max(about["errors"])
        call = partial(LIBRARIES[name].solve, problem, about["effort"])
        found[f"lambda_max, {name}"] = {"products": products, "error": error}, call
    needed = probes_needed(problem)
    for key, estimate in ESTIMATES.items():
        quantity, _, name = key.partition(", ")
        if reason := unusable(name, problem):
            found[key] = {"missing": reason}, None
            continue
        about = {"products": needed[quantity], "error": RELATIVE_ERROR}
        found[key] = about, partial(estimate, problem, needed[quantity])
    return found


def probes_needed(problem: Problem) -> dict[str, int]:
    """Return how many Rademacher vectors give the trace, and the norm by its square, to the relative error."""
    operator = problem.hessian()
    z = rademacher(operator.shape[0], SPREAD_PROBES, torch.Generator().manual_seed(0)).to(operator.device).float()
    products = torch.cat([operator.matmat(part) for part in z.split(AT_ONCE, 1)], 1)
    samples = {"trace": (z * products).double().sum(0), "frobenius": products.double().square().sum(0)}
    wanted = {"trace": RELATIVE_ERROR, "frobenius": 2 * RELATIVE_ERROR}  # of the square
    spread = {name: float(one.std() / one.mean()) for name, one in samples.items()}
    return {name: max(2, math.ceil((spread[name] / wanted[name]) ** 2)) for name in samples}


def trace_by_pyhessian(problem: Problem, probes: int, seed: int) -> float:
    """Run PyHessian's Hutchinson estimate for a fixed number of probes."""
    torch.manual_seed(seed)
    with pyhessian_of(problem) as (hessian, _):
        return float(np.mean(hessian.trace(maxIter=probes, tol=0)))


def by_curvlinops(function: str, problem: Problem, probes: int, seed: int) -> float:
    """Run an estimate of curvlinops, some probes at a time, as it keeps the products of all."""
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch.func compiles rules with torch.jit
        import curvlinops

        operator = curvlinops_of(problem)
        groups = [min(AT_ONCE, probes - first) for first in range(0, probes, AT_ONCE)]
        return sum(k / probes * float(getattr(curvlinops, function)(operator, k)) for k in groups)


def trace_by_eigenthings(problem: Problem, probes: int, seed: int) -> float:
    """Run hessian-eigenthings' Hutchinson estimate."""
    import hessian_eigenthings as library

    return float(library.hutchinson(eigenthings_of(problem), num_samples=probes, seed=seed).estimate)


ESTIMATES: dict[str, Callable[[Problem, int, int], float]] = {
    "trace, PyHessian": trace_by_pyhessian,
    "trace, curvlinops + eigsh": partial(by_curvlinops, "hutchinson_trace"),
    "trace, hessian-eigenthings": trace_by_eigenthings,
    "frobenius, curvlinops + eigsh": partial(by_curvlinops, "hutchinson_squared_fro"),
}


def costs(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row for each problem and measure: gradients (of time), products, gradients, and relative error."""
    rows = []
    for entry in entries:
        seconds = entry["seconds"]
        for name, taken in entry["measures"].items():
            cost = median_ratio(seconds[name], seconds["gradient"])
            rows.append({"problem": entry["problem"], "measure": name, "cost": cost} | taken)
    return pd.DataFrame(rows)


def beside(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row for each problem and quantity, with the cost in gradients by flatlib and by each other library.

    A library that has no cost has the reason in its place, and none where it does not offer the quantity.
    """
    rows = []
    for entry in entries:
        seconds = entry["seconds"]
        for quantity in ("lambda_max", "trace", "frobenius"):
            row = {"problem": entry["problem"], "quantity": quantity}
            keys = {"flatlib": quantity} | {name: f"{quantity}, {name}" for name in OTHERS}
            missing = {name: entry["libraries"].get(key, {}).get("missing") for name, key in keys.items()}
            taken = {name: seconds[key] for name, key in keys.items() if key in seconds}
            rows.append(row | missing | {name: median_ratio(taken[name], seconds["gradient"]) for name in taken})
    return pd.DataFrame(rows).reindex(columns=["problem", "quantity", "flatlib", *OTHERS])


def by_problem(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row for each measure, with its cost in gradients and the relative error it reached, by problem."""
    names = {"cost": "gradients", "error": "error"}
    columns = {
        f"{problem.removesuffix(' trained 1000')}: {name}": rows.set_index("measure")[column]
        for problem, rows in costs(entries).groupby("problem", sort=False)
        for column, name in names.items()
    }
    return pd.DataFrame(columns).rename_axis("measure")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of costs as text: one digit after the point, small errors in powers of ten, nothing for NaN."""

    def text(value: Any) -> str:
        if isinstance(value, str) or pd.isna(value) or value == 0:
            return "" if pd.isna(value) else str(value)
        return f"{value:.1f}" if value >= 0.1 else f"{value:.0e}"

    return table.map(text)


def report(entries: list[dict[str, Any]]) -> str:
    """Return both tables as text."""
    tables = [costs(entries), beside(entries)]
    return "\n\n".join(one.to_string(index=False, na_rep="-", float_format="{:.4g}".format) for one in tables)
