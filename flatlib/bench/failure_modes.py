"""Libraries on problems on which some fail: the reference eigenvalue, and each library's at its documented defaults."""

import importlib.util
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.bench.libraries import LIBRARIES, PYHESSIAN_ENGINE, Library
from flatlib.bench.problems import Problem
from flatlib.bench.traps import PROBLEMS, UNANSWERABLE, make_problem

STEP = 1e-4  # of extrapolated central differences in float64, good to 1e-8 of the largest entry
WRONG = 0.01  # relative error from which a value is wrong; the libraries' own tolerances are tighter

SOLVERS: dict[str, tuple[Library, float | None]] = {  # libraries, each with the effort of its call
    **{name: (LIBRARIES[name], None) for name in ("flatlib", "PyHessian", "curvlinops + eigsh")},
    "flatlib, PyHessian engine": (PYHESSIAN_ENGINE, None),
    "hessian-eigenthings": (LIBRARIES["hessian-eigenthings"], 50),
    "hessian-eigenthings, default": (LIBRARIES["hessian-eigenthings"], None),  # two steps for one eigenvalue
}


def reference_eigenvalue(problem: Problem) -> float | None:
    """Return the largest eigenvalue from central differences of the gradient in float64, without second derivatives."""
    if problem.name in UNANSWERABLE:
        return None
    model, loss = problem.model.double().train(problem.batch_norm == "train"), problem.loss.double()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.scale_grad_by_freq = False  # the derivative itself
    x, y = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    x = x.double() if x.is_floating_point() else x
    parameters = list(model.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(loss(model(x.clone()), y), parameters, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    def difference(step: Tensor) -> Tensor:
        return gradient(flat + step) - gradient(flat - step)

    unit = torch.eye(len(flat), dtype=torch.float64)
    dense = torch.stack([(8 * difference(STEP * e) - difference(2 * STEP * e)) / (12 * STEP) for e in unit])
    return float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])


def evaluate_all() -> list[dict[str, Any]]:
    """Return for every problem the reference and the value or the error of each installed library."""
    rows = []
    for trap in PROBLEMS:
        row: dict[str, Any] = {"trap": trap, "truth": reference_eigenvalue(make_problem(trap))}
        for name, (library, effort) in SOLVERS.items():
            if importlib.util.find_spec(library.package) is not None:
                row[name] = _evaluate(library, effort, make_problem(trap))
        rows.append(row)
    return rows


def _evaluate(library: Library, effort: float | None, problem: Problem) -> float | str:
    try:
        value = float(library.solve(problem, effort, 0).value)
        return value if value == value else "nan"
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def verdicts(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per problem, one column per library: "right", "refuses" (an error) or the wrong value.

    Of a problem without an answer every value is wrong.
    """
    table = pd.DataFrame(rows).set_index("trap")
    references = table.pop("truth")
    return table.apply(lambda column: [_verdict(*pair) for pair in zip(column, references, strict=True)])


def _verdict(value: float | str | None, reference: float | None) -> str:
    if value is None:
        return "not run"
    if isinstance(value, str):
        return "wrong: nan" if value == "nan" else "refuses"
    if reference is None or not abs(value - reference) <= WRONG * abs(reference):
        return f"wrong: {value:.3g}"
    return "right"
