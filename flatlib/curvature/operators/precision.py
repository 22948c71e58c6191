"""The number type and the device on which a model, its inputs and targets are measured."""

import math

import torch
from torch import Tensor, nn

from flatlib.errors import FlatlibError


def measured_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a tensor is measured: complex numbers of this precision, integers as they are."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def is_finite(tensor: Tensor) -> bool:
    """Return whether all entries are finite: a finite sum, in a sixth of the time, shows that they are."""
    return math.isfinite(tensor.detach().sum()) or bool(torch.isfinite(tensor).all())


def common(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and the device that all parameters have; integers, as of quantized weights, are constants.

    Raises:
        FlatlibError: If there is more than one, or another dtype than float32 and float64.
    """
    parameters = [p for p in module.parameters() if p.is_floating_point() or p.is_complex()]
    if not parameters:
        raise FlatlibError(f"{type(module).__name__} has integer parameters only: there is nothing to measure")
    for p in parameters:
        _require_measurable(p.dtype)
    for attribute in ("dtype", "device"):
        found = {str(getattr(p, attribute)) for p in parameters}
        if len(found) > 1:
            raise FlatlibError(f"the parameters have more than one {attribute}: {', '.join(sorted(found))}")
    return parameters[0].dtype, parameters[0].device


def _require_measurable(dtype: torch.dtype) -> None:
    if dtype.is_complex:
        raise FlatlibError(
            "the parameters are complex: store each as a real one (torch.view_as_real), and combine its parts in the "
            "forward pass (torch.view_as_complex)"
        )
    if dtype not in (torch.float32, torch.float64):
        raise FlatlibError(
            f"curvature is measured in float32 or float64, not {dtype!r}: pass dtype=torch.float32 (a shorter type is "
            "wrong by several percent)"
        )
