"""Curvature layer by layer: the diagonal blocks of one Hessian, in a table."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.trace.exact import exact_traces
from flatlib.curvature.trace.trace import trace
from flatlib.errors import FlatlibError

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
) -> pd.DataFrame:
    r"""Largest eigenvalue and trace of $\nabla^2_{\theta_b} L$ for every block b of the parameters, the others fixed.

    The blocks' traces sum to the trace of the whole; the largest of their eigenvalues bounds the whole's from below.
    Where they are exact, all traces come from one pass.

    Parameters
    ----------
    model, loss, data, batch_norm, chunk_size, dtype: as for `HessianOperator`.
    parameters: as there; they select the rows.
    block: "tensor", one row for each named parameter tensor, or "module", one for each module that owns some.
    tol, seed: as of `top_eigenvalues` and `trace`.
    probes: as of `trace`, for each block.

    Returns
    -------
    A table indexed by the block's name, in the model's order, with the columns `size`, `eigenvalue`, `residual`,
    `converged`, `trace`, `trace_standard_error`, `trace_exact`, `products`. What was measured is in its `attrs`.

    Raises
    ------
    FlatlibError: for an unknown `block`, and whatever the operator and the two measures refuse.
    """
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
        operator = HessianOperator(
            whole.model, whole.loss, whole.data, batch_norm=batch_norm, chunk_size=whole.chunk_size, parameters=members
        )
        top = top_eigenvalues(operator, tol=tol, seed=seed)
        known = traces is not None
        found = None if known else trace(operator, probes=probes, seed=seed)
        rows[title] = {
            "size": operator.shape[0],
            "eigenvalue": float(top.values[0]),
            "residual": float(top.residuals[0]),
            "converged": top.converged,
            "trace": sum(traces[name] for name in members) if known else found.value,
            "trace_standard_error": 0.0 if known else found.standard_error,
            "trace_exact": known or found.exact,
            "products": top.products + (0 if known else found.products),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("block")
    table.attrs = {"batch_norm": batch_norm, "examples": whole.examples, "dtype": str(whole.torch_dtype)}
    return table
