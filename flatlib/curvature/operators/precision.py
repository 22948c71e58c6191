"""The number type in which a model, its inputs and targets are measured."""

import torch
from torch import Tensor


def measured_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which a tensor is measured: complex numbers of this precision, integers as they are."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype
