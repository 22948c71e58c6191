"""The forward pass of a model that is measured: on copies of the inputs, with an error in one line."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.double_backward import TwiceDifferentiable
from flatlib.curvature.operators.nested import leaves, mapped, shapes
from flatlib.errors import FlatlibError, NotFinite, explained


def forward(model: nn.Module, inputs: Any) -> Any:
    """Return the model's output, or raise a ``FlatlibError`` if the model fails or changes its buffers.

    A tuple or list of inputs is passed by position, a mapping by name. The model gets copies, as it may change them.
    """
    inputs = mapped(inputs, lambda leaf: leaf if leaf.requires_grad else leaf.clone())
    integers = [leaf for leaf in leaves(inputs) if not leaf.is_floating_point() and not leaf.is_complex()]
    hint = " (convert integer inputs to floating point?)" if integers else ""
    failure = f"{type(model).__name__} fails on inputs of {shapes(inputs)}{hint}"
    with explained(failure), _unchanged_buffers(model), TwiceDifferentiable():
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def without_gradients(run: Callable[[], Any]) -> Any:
    """Return what a function computes, without a graph; a model that differentiates itself needs one on its way."""
    try:
        with torch.no_grad():
            return run()
    except NotFinite:
        raise
    except FlatlibError:
        with torch.enable_grad():
            return mapped(run(), Tensor.detach)


def forward_logits(model: Callable[[Any], Any], x: Tensor) -> Tensor:
    """Return the model's output or its ``logits``; raise a ``FlatlibError`` if they are not (N, C) and finite."""
    output = model(x)
    if not isinstance(output, Tensor):
        output = output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        raise FlatlibError(f"the outputs must be (N, C), got {shapes(output)} for {len(x)} inputs")
    if not torch.isfinite(output).all():
        raise NotFinite("the outputs are not finite: there is nothing to measure")
    return output


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Raise a ``FlatlibError`` if the model changes a buffer: its outputs then depend on how often it was run.

    Batch norm's running statistics may change: outputs in train mode do not use them.
    """
    before = _buffers(model)
    yield
    after = _buffers(model)
    for name, (tensor, version) in before.items():
        if after.get(name, (None, 0))[0] is not tensor or after[name][1] != version:
            raise FlatlibError(f'{type(model).__name__} changes its buffer "{name}" whenever it is run')


def _buffers(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Return every buffer with autograd's count of its changes, batch norms' apart."""
    return {
        f"{path}.{name}".lstrip("."): (buffer, 0 if buffer.is_inference() else buffer._version)
        for path, module in model.named_modules()
        if not isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }
