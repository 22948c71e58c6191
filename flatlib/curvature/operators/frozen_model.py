"""A frozen copy of a model for measuring: full precision, no dropout, no random numbers."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter

from flatlib.curvature.operators.double_backward import TwiceDifferentiable, without_checkpoints
from flatlib.curvature.operators.precision import measured_dtype
from flatlib.device import current, full_precision, global_generators
from flatlib.errors import FlatlibError, NotFinite, explained

BATCH_NORM = ("eval", "train", "recalibrated")


@torch.inference_mode(False)
def frozen_copy(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a model so that neither can change the other: the copy is cast, run and differentiated, the model is not.

    Wrappers that have no second derivative or rename parameters are removed (``unwrapped``).

    Args:
        model: Any network with parameters; its modes, buffers, gradients and dtype stay as they are.
        dtype: torch.float32 or torch.float64 to cast the copy; by default the model's own.

    Raises:
        FlatlibError: If the model cannot be copied, has no parameter or one without values, lies on several devices, or
            is neither float32 nor float64 after the cast.
    """
    model = unwrapped(model)
    if not any(True for _ in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has no parameter: there is nothing to measure")
    if any(p.is_meta or isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has a parameter without values: initialize it first")
    # Seeding the memo copies parameters by value only: a `.grad` that still carries a graph cannot be deep-copied.
    memo = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in model.parameters()}
    try:
        frozen = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise FlatlibError(f"{type(model).__name__} cannot be copied for measuring: {error}") from error
    for module in frozen.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # the same gradient, as a tensor that can be multiplied
    if dtype is not None:
        _require_measurable(dtype)
        frozen = frozen._apply(lambda t: t.to(measured_dtype(t, dtype)))  # ``to`` would make complex numbers real
    for p in frozen.parameters():
        _require_measurable(p.dtype)
    for attribute in ("dtype", "device"):
        found = {str(getattr(p, attribute)) for p in frozen.parameters()}
        if len(found) > 1:
            raise FlatlibError(f"the parameters have more than one {attribute}: {', '.join(sorted(found))}")
    return frozen


def unwrapped(model: Any) -> nn.Module:
    """Return the model inside ``torch.compile``, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # its class comes with the compiler, which takes a second
            model = model._orig_mod
        else:
            return model


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


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's output, or raise a ``FlatlibError`` if the model fails or changes its buffers."""
    failure = f"{type(model).__name__} fails on inputs of shape {tuple(x.shape)}"
    with explained(failure), _unchanged_buffers(model), TwiceDifferentiable():
        return model(x)


def forward_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's output, or raise a ``FlatlibError`` if it is not (N, C) and finite."""
    output = forward(model, x)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        raise FlatlibError(f"the outputs must be (N, C), got {shape} for {len(x)} inputs")
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


def set_modes(model: nn.Module, batch_norm: str) -> None:
    """Set evaluation mode, without dropout; with ``batch_norm="train"`` batch norm alone uses batch statistics."""
    if batch_norm not in BATCH_NORM:
        raise FlatlibError(f'batch_norm="{batch_norm}" is unknown; choose one of {", ".join(BATCH_NORM)}')
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_norm == "train")


@contextmanager
def measurement_mode(device: torch.device) -> Iterator[None]:
    """Enable gradients and twice differentiable attention; disable autocast, TF32 and activation checkpoints; restore
    the random state.

    Raises:
        FlatlibError: If the body draws from the global random state, as functional dropout does: what is measured is
            then not a function.
    """
    with ExitStack() as stack:
        stack.enter_context(current(device))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the only kernel with a second derivative
        stack.enter_context(without_checkpoints())
        stack.enter_context(full_precision())
        stack.enter_context(_undrawn_randomness(device))
        yield


@contextmanager
def _undrawn_randomness(device: torch.device) -> Iterator[None]:
    """Restore the global random state, and raise a ``FlatlibError`` if it was used."""
    generators = global_generators(device)
    before = [generator.get_state() for generator in generators]
    drawn = False
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            if not torch.equal(generator.get_state(), state):
                drawn = True
                generator.set_state(state)
    if drawn:
        raise FlatlibError("the model or loss draws random numbers in evaluation mode: its curvature is not defined")
