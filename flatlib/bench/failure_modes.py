"""Problems on which libraries fail: the reference eigenvalue, and each library's at its documented defaults."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from flatlib.bench.libraries import LIBRARIES, PYHESSIAN_ENGINE, Library
from flatlib.bench.problems import Problem

EXAMPLES = 24
STEP = 1e-4  # of extrapolated central differences in float64, good to 1e-8 of the largest entry
WRONG = 0.01  # relative error from which a value is wrong; the libraries' own tolerances are tighter
CLOSE = [1.0, *torch.linspace(0.5, 0.985, 40).tolist()]  # eigenvalues between which power iteration cannot tell


class MeanOutput(nn.Module):
    """Loss that is the mean of the outputs."""

    reduction = "mean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return output.mean()


class TinyCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy times a billionth, as of a network that has fitted its data."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return 1e-9 * super().forward(output, target)


class QuadraticModel(nn.Module):
    """Model whose output (N, 1) has a mean with the given Hessian eigenvalues, in a rotated basis."""

    matrix: Tensor

    def __init__(self, eigenvalues: list[float]):
        super().__init__()
        n = len(eigenvalues)
        rotation, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(n))
        self.register_buffer("matrix", (rotation * torch.tensor(eigenvalues) @ rotation.T).float())

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.weight @ self.matrix @ self.weight).expand(len(x), 1)


class Attention(nn.Module):
    """One layer of attention over two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x.unflatten(1, (1, 2, 4))).chunk(3, -1)
        return self.outer(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def _network(*first: nn.Module) -> nn.Module:
    return nn.Sequential(*(first or [nn.Linear(8, 5)]), nn.Tanh(), nn.Linear(5, 3))


def _data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(EXAMPLES, 8), torch.arange(EXAMPLES) % 3)]


def _problem(model: nn.Module | None = None, **settings: Any) -> Problem:
    return Problem("", model or _network(), _data(), **settings)


def _quadratic(eigenvalues: list[float]) -> Problem:
    return Problem("", QuadraticModel(eigenvalues), [(torch.zeros(4, 1), torch.zeros(4))], loss=MeanOutput())


def _unequal_batches() -> Problem:
    ((x, y),) = _data()
    x = torch.cat([x[:20], 4 * x[20:]])
    return Problem("", _network(), [(x[:20], y[:20]), (x[20:], y[20:])])


def _unused_parameter() -> Problem:
    problem = _problem()
    problem.model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    return problem


def _old_gradients() -> Problem:
    """Return a problem as PyHessian leaves it: with gradients that hold their graph."""
    problem = _problem()
    ((x, y),) = problem.batches
    parameters = list(problem.model.parameters())
    gradients = torch.autograd.grad(problem.loss(problem.model(x), y), parameters, create_graph=True)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    return problem


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "eigenvalues 2, -3, 0.5": lambda: _quadratic([2.0, -3.0, 0.5]),
    "eigenvalues 1, -1, 0.5": lambda: _quadratic([1.0, -1.0, 0.5]),
    "many close eigenvalues": lambda: _quadratic(CLOSE),
    "a loss of a billionth": lambda: _problem(loss=TinyCrossEntropy()),
    "gradients left from before": _old_gradients,
    "batches of unequal size": _unequal_batches,
    "a parameter not used": _unused_parameter,
    "batch norm in train mode": lambda: _problem(_network(nn.Linear(8, 5), nn.BatchNorm1d(5)), batch_norm="train"),
    "weight norm": lambda: _problem(_network(nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)))),
    "attention": lambda: _problem(Attention()),
    "no data": lambda: Problem("", _network(), []),
}
SOLVERS: dict[str, tuple[Library, float | None]] = {  # libraries, each with the effort of its call
    **{name: (LIBRARIES[name], None) for name in ("flatlib", "PyHessian", "curvlinops + eigsh")},
    "flatlib, PyHessian engine": (PYHESSIAN_ENGINE, None),
    "hessian-eigenthings": (LIBRARIES["hessian-eigenthings"], 50),
    "hessian-eigenthings, default": (LIBRARIES["hessian-eigenthings"], None),  # two steps for one eigenvalue
}


def make_problem(name: str) -> Problem:
    """Return the problem of that name; its numbers do not depend on the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(PROBLEMS[name](), name=name)


def reference_eigenvalue(problem: Problem) -> float | None:
    """Return the largest eigenvalue from central differences of the gradient in float64, without second derivatives."""
    if not problem.batches:
        return None
    model = problem.model.double().train(problem.batch_norm == "train")
    x, y = (torch.cat(parts) for parts in zip(*problem.batches, strict=True))
    parameters = list(model.parameters())
    flat = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(problem.loss(model(x.double()), y), parameters, materialize_grads=True)
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

    Without data, every value is wrong.
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
