"""Curvature by layer: a table of the diagonal blocks of one Hessian."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from flatlib.curvature.operators.empirical_risk import Loss
from flatlib.curvature.operators.examples import Data
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.traces.exact import exact_traces
from flatlib.curvature.traces.hutchinson import Estimate, trace
from flatlib.errors import FlatlibError

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = ("tensor", "module")


def per_layer(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    block: str = "tensor",
    batch_norm: str = "eval",
    chunk_size: int | None = None,
    parameters: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    tol: float = 1e-3,
    probes: int | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    r"""Compute the largest eigenvalue and trace of $\nabla^2_{\theta_b} L$ for every block b of the parameters.

    The blocks' traces sum to the whole's; the largest of their eigenvalues bounds the whole's from below.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    >>> table = per_layer(model, "cross_entropy", (torch.randn(20, 4), torch.arange(20) % 3), block="module")
    >>> table["size"].to_dict(), bool(table["trace_exact"].all())
    ({'0': 25, '2': 18}, True)

    Args:
        model: Network, as for ``HessianOperator``.
        loss: Loss, as there.
        data: Examples, as there.
        block: "tensor" for one row per named parameter tensor, "module" for one per module that owns some.
        batch_norm: Statistics of batch norm, as there.
        chunk_size: Examples per chunk, as there.
        parameters: Names or patterns, as there; they select the rows.
        dtype: Precision, as there.
        tol: Relative tolerance of ``top_eigenvalues``.
        probes: Probes of ``trace`` for each block; by default the traces are exact where that is possible.
        seed: Seed of both.

    Returns:
        A row for every block's name, in the model's order, with ``size``, ``eigenvalue``, ``residual``, ``converged``,
        ``trace``, ``trace_standard_error``, ``trace_exact`` and ``products``; the batch-norm mode, the number of
        examples and the dtype in ``attrs``.

    Raises:
        FlatlibError: If ``block`` is unknown, or the operator or one of the two measures refuses an argument.
    """
    import pandas as pd  # here, so that flatlib.curvature imports without it

    if block not in BLOCKS:
        raise FlatlibError(f'block="{block}" is unknown; choose one of {", ".join(BLOCKS)}')
    whole = HessianOperator(
        model, loss, data, batch_norm=batch_norm, chunk_size=chunk_size, parameters=parameters, dtype=dtype
    )
    names: dict[str, list[str]] = {}
    for name in whole.parameters:
        names.setdefault(name if block == "tensor" else name.rpartition(".")[0], []).append(name)
    traces = exact_traces(whole) if probes is None else None
    rows = {}
    for title, members in names.items():
        operator = whole.restricted(members)
        top = top_eigenvalues(operator, tol=tol, seed=seed)
        exact = Estimate(sum(traces[name] for name in members), 0.0, 0, True) if traces else None
        found = exact or trace(operator, probes=probes, seed=seed)
        rows[title] = {
            "size": operator.shape[0],
            "eigenvalue": float(top.values[0]),
            "residual": float(top.residuals[0]),
            "converged": top.converged,
            "trace": found.value,
            "trace_standard_error": found.standard_error,
            "trace_exact": found.exact,
            "products": top.products + found.products,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("block")
    table.attrs = {"batch_norm": batch_norm, "examples": whole.examples, "dtype": str(whole.torch_dtype)}
    return table
