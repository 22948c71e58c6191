"""Benchmark of exact quantities: the trace, in units of gradients, and Jacobian norms against torch.func."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flatlib.bench.problems import IMAGE_NAMES, Problem
from flatlib.bench.timing import alternating, median_ratio
from flatlib.curvature import trace
from flatlib.sharpness.jacobian import jacobian_norm

CASES = IMAGE_NAMES
SAMPLES = 1000  # images whose Jacobians are taken
CHUNK = 100  # images at a time in torch.func, its fastest on a CPU


def benchmark(problem: Problem, repeats: int) -> dict[str, Any]:
    """Return the exact trace, the error of Jacobian norms, and the seconds of both, of a gradient and of torch.func."""
    model = problem.model.eval()
    ((x, y),) = problem.batches
    operator = problem.hessian()
    parameters = list(model.parameters())
    found = trace(operator)
    calls: dict[str, Callable[[int], object]] = {
        "gradient": lambda repeat: torch.autograd.grad(problem.loss(model(x), y), parameters),
        "trace": lambda repeat: trace(operator),
        "jacobian_norm": lambda repeat: jacobian_norm(model, x[:SAMPLES]),
        "vmap(jacrev)": lambda repeat: by_torch_func(problem, x[:SAMPLES]),
    }
    ours, theirs = jacobian_norm(model, x[:SAMPLES]), by_torch_func(problem, x[:SAMPLES])
    return {
        "problem": problem.name,
        "trace": found.value,
        "trace_is_exact": found.exact,
        "jacobian_error": float((ours - theirs).abs().max() / ours.max()),
        "seconds": alternating(calls, repeats),
    }


def by_torch_func(problem: Problem, x: Tensor) -> Tensor:
    """Return the spectral norms (N,) of the Jacobians that `torch.func` computes."""
    parameters = {name: p.detach() for name, p in problem.model.named_parameters()}
    buffers = dict(problem.model.named_buffers())

    def output(sample: Tensor) -> Tensor:
        return torch.func.functional_call(problem.model, (parameters, buffers), (sample[None],))[0]

    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch.func compiles rules with torch.jit
        rows = torch.func.vmap(torch.func.jacrev(output), chunk_size=CHUNK)(x).flatten(2)
    return torch.linalg.eigvalsh(rows @ rows.mT)[:, -1].clamp_min(0).sqrt()


def ratios(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the time of the trace in gradients (NaN where it is not exact) and of torch.func in units of flatlib's."""
    rows = {}
    for entry in entries:
        seconds = entry["seconds"]
        in_gradients = median_ratio(seconds["trace"], seconds["gradient"])
        rows[entry["problem"]] = {
            "trace / gradient": in_gradients if entry["trace_is_exact"] else np.nan,
            "vmap(jacrev) / jacobian_norm": median_ratio(seconds["vmap(jacrev)"], seconds["jacobian_norm"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("problem")


def report(entries: list[dict[str, Any]]) -> str:
    """Return the table of `ratios` as text."""
    return ratios(entries).round(2).to_string(na_rep="-")
