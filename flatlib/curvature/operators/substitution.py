"""PyTorch's functions on the parameters and in the number type that are measured, whatever the model's code says."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatlib.curvature.operators.precision import measured_dtype

SHORTER = {  # number types that a model may cast to, and whose rounding is not that of the type that is measured
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}
CASTS = {Tensor.half: torch.float16, Tensor.bfloat16: torch.bfloat16, Tensor.float: torch.float32}


class Substitution(TorchFunctionMode):
    """Context in which functions get other parameters, cast to no shorter type than the one measured, and compute in
    one type where they do not take several: a model or loss may hold tensors where they cannot be found and cast.

    Args:
        values: What replaces each parameter, by its identity.
        dtype: torch.float32 or torch.float64.
    """

    def __init__(self, values: dict[int, Tensor], dtype: torch.dtype):
        super().__init__()
        self._values, self._dtype, self._shorter = values, dtype, SHORTER[dtype]

    def __torch_function__(self, function, types, arguments=(), named=None):
        if CASTS.get(function) in self._shorter:
            function, arguments = Tensor.to, (*arguments, self._dtype)
        arguments, named = _replaced((arguments, named or {}), self._swap)
        try:
            return function(*arguments, **named)
        except (RuntimeError, ValueError) as error:
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            arguments, named = _replaced((arguments, named), self._cast)
            return function(*arguments, **named)

    def _swap(self, value: Any) -> Any:
        if isinstance(value, nn.Parameter):
            return self._values.get(id(value), value)
        return self._dtype if isinstance(value, torch.dtype) and value in self._shorter else value

    def _cast(self, value: Any) -> Any:
        return value.to(measured_dtype(value, self._dtype)) if isinstance(value, Tensor) else value


def _replaced(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return the function's value of everything in tuples, lists and dictionaries."""
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, function) for item in value)
    if type(value) is dict:
        return {key: _replaced(item, function) for key, item in value.items()}
    return function(value)
