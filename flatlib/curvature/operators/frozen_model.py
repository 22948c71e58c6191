"""A model held still while it is measured: its own copy, full precision, no dropout, no random numbers."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter

from flatlib.device import current, full_precision, global_generators
from flatlib.errors import FlatlibError, NotFinite, explained

BATCH_NORM = ("eval", "train", "recalibrated")


@torch.inference_mode(False)
def frozen_copy(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the model as it is now, without its gradients, which alone is run and cast: nothing has to be put back.

    Modes, buffers, `.grad`, `requires_grad` and dtype of the model itself cannot change, not even when a measurement
    is interrupted, and a measurement cannot change when the model is trained further.

    What wraps a model to run it elsewhere or faster (`torch.compile`, DataParallel) is taken off: its parts have no
    second derivative, or other names.

    Raises `FlatlibError` if the model cannot be copied, has no parameter or one without values, lies on several
    devices, or is neither float32 nor float64 after the cast to `dtype`.
    """
    model = unwrapped(model)
    if not any(True for _ in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has no parameter: there is nothing to measure")
    if any(p.is_meta or isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has a parameter without values: initialise it first")
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
        frozen = frozen.to(dtype)
    for what in ("dtype", "device"):
        found = {str(getattr(p, what)) for p in frozen.parameters()}
        if len(found) > 1:
            raise FlatlibError(f"the parameters have more than one {what}: {', '.join(sorted(found))}")
    _require_measurable(next(frozen.parameters()).dtype)
    return frozen


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # its class comes with the compiler, which takes a second
            model = model._orig_mod
        else:
            return model


def _require_measurable(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise FlatlibError(
            f"curvature is measured in float32 or float64, not {dtype!r}, which is wrong by several percent if it is "
            "shorter: pass dtype=torch.float32"
        )


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output, or a `FlatlibError` if it fails or changes itself."""
    with explained(f"{type(model).__name__} fails on inputs of shape {tuple(x.shape)}"), _unchanged_buffers(model):
        return model(x)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """The model's output, (N, C) and finite, or a `FlatlibError`."""
    output = run(model, x)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        raise FlatlibError(f"the outputs must be (N, C), got {shape} for {len(x)} inputs")
    if not torch.isfinite(output).all():
        raise NotFinite("the outputs are not finite: there is nothing to measure")
    return output


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Raise a `FlatlibError` if the model writes to its buffers when it is run: its outputs then depend on how often it
    was run. Batch norm's running statistics, which its outputs in train mode do not use, may change."""
    before = _buffers(model)
    yield
    after = _buffers(model)
    for name, (tensor, version) in before.items():
        if after.get(name, (None, 0))[0] is not tensor or after[name][1] != version:
            raise FlatlibError(f'{type(model).__name__} changes its buffer "{name}" whenever it is run')


def _buffers(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    return {
        f"{path}.{name}".lstrip("."): (buffer, 0 if buffer.is_inference() else buffer._version)
        for path, module in model.named_modules()
        if not isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def set_modes(model: nn.Module, batch_norm: str) -> None:
    """Evaluation mode, so that dropout is off; with `batch_norm="train"` batch norm alone uses batch statistics."""
    if batch_norm not in BATCH_NORM:
        raise FlatlibError(f'batch_norm="{batch_norm}" is unknown; choose one of {", ".join(BATCH_NORM)}')
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_norm == "train")


@contextmanager
def measurement_mode(device: torch.device) -> Iterator[None]:
    """Gradients on, autocast and TF32 off, attention twice differentiable, the random state as it was.

    Raises `FlatlibError` if something inside drew from the global random state: what was measured is then not a
    function (functional dropout left on, for example; it makes two products differ by more than half).
    """
    with ExitStack() as stack:
        stack.enter_context(current(device))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the only kernel with a second derivative
        stack.enter_context(full_precision())
        stack.enter_context(_undrawn_randomness(device))
        yield


@contextmanager
def _undrawn_randomness(device: torch.device) -> Iterator[None]:
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
