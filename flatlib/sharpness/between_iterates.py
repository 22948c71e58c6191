"""The largest eigenvalue between two successive iterates, for networks with batch norm (Kaur et al. 2022)."""

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.empirical_risk import Data, Loss
from flatlib.curvature.operators.frozen_model import frozen_copy
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.spectrum.eigenvalues import top_eigenvalues
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues
from flatlib.errors import FlatlibError
from flatlib.sharpness.perturbed_loss import BlockOptions


@dataclass(frozen=True)
class BetweenIterates:
    """The largest eigenvalue at every point, and the maximum.

    Attributes
    ----------
    value: the largest of `values`.
    residual: its residual; an eigenvalue lies that near (see `top_eigenvalues`).
    positions: (points,) from 0, the iterate before, to 1, the one after.
    values, residuals: (points,) float64, one largest eigenvalue per point with ||Hv - value v||.
    vector: (n,) unit eigenvector of `value`.
    products: Hessian-vector products used at all points together.
    converged: whether the search at every point did.
    """

    value: float
    residual: float
    positions: Tensor
    values: Tensor
    residuals: Tensor
    vector: Tensor
    products: int
    converged: bool


def between_iterates(
    model_before: nn.Module,
    model_after: nn.Module,
    loss: Loss,
    data: Data,
    *,
    points: int = 8,
    batch_norm: str = "train",
    engine: str = "lanczos",
    tol: float = 1e-3,
    max_products: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    **options: Unpack[BlockOptions],
) -> BetweenIterates:
    r"""The largest eigenvalue found between two iterates.

    $\max_i \lambda_{\max}\big(\nabla^2 L((1 - t_i)\, w_0 + t_i w_1)\big)$, $t_i = i / (p - 1)$ for $i < p$ points.

    With batch norm and a small learning rate the iterates themselves look flatter than what the step between them
    crosses (Cohen et al. 2021, appendix); Kaur et al. 2022 (section on batch norm) therefore take the maximum over 8
    evenly spaced points between the final iterate and one extra step. As in their code the buffers are interpolated
    too (those of integers stay those of the iterate before) and batch norm is in train mode.

    Parameters
    ----------
    model_before, model_after: two states of one architecture; both are left as they were.
    loss, data: as for `HessianOperator`; train mode needs the data as one batch.
    points: both ends count; 8 in Kaur et al.
    batch_norm: as for `HessianOperator`; train mode in Kaur et al.
    engine, tol, max_products, seed: as for `top_eigenvalues`, at every point (max_products too).
    start: (n,) warm start of the first point; each later one starts from the eigenvector of the one before it.
    options: chunk_size, parameters and dtype of `HessianOperator`.

    Raises
    ------
    FlatlibError: for fewer than two points, models that differ in architecture and what `HessianOperator` and
        `top_eigenvalues` refuse.
    """
    if points < 2:
        raise FlatlibError(f"points={points}: both iterates are points, so there are at least 2")
    _require_alike(model_before, model_after)
    positions = torch.linspace(0, 1, points, dtype=torch.float64)
    found: list[Eigenvalues] = []
    for position in positions:
        between = interpolated(model_before, model_after, float(position), dtype=options.get("dtype"))
        operator = HessianOperator(between, loss, data, batch_norm=batch_norm, **options)
        found.append(
            top_eigenvalues(operator, engine=engine, tol=tol, max_products=max_products, start=start, seed=seed)
        )
        start = found[-1].vectors[:, 0]
    values = torch.cat([point.values for point in found])
    residuals = torch.cat([point.residuals for point in found])
    top = int(values.argmax())
    return BetweenIterates(
        value=float(values[top]),
        residual=float(residuals[top]),
        positions=positions,
        values=values,
        residuals=residuals,
        vector=found[top].vectors[:, 0],
        products=sum(point.products for point in found),
        converged=all(point.converged for point in found),
    )


def interpolated(
    before: nn.Module, after: nn.Module, position: float, *, dtype: torch.dtype | None = None
) -> nn.Module:
    """A copy of `before` whose parameters and floating-point buffers are $(1 - t) w_0 + t w_1$, t the position."""
    between = frozen_copy(before, dtype=dtype)
    later = _state(after)
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in _state(between).items():
            if tensor.is_floating_point():
                tensor.lerp_(later[name].detach().clone().to(tensor), position)
    return between


def _state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _require_alike(before: nn.Module, after: nn.Module) -> None:
    first, second = ({name: t.shape for name, t in _state(model).items()} for model in (before, after))
    if first != second:
        odd = next(name for name in (*first, *second) if first.get(name) != second.get(name))
        raise FlatlibError(f'the two iterates are not of one architecture: they differ in "{odd}"')
