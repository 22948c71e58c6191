"""A model held still while it is measured: its own copy, full precision, no dropout, no random numbers."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.device import global_generators
from flatlib.errors import FlatlibError

BATCH_NORM = ("eval", "train", "recalibrated")
PRECISION_SWITCHES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
)


@torch.inference_mode(False)
def frozen_copy(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the model as it is now, without its gradients, which alone is run and cast: nothing has to be put back.

    Modes, buffers, `.grad`, `requires_grad` and dtype of the model itself cannot change, not even when a measurement
    is interrupted, and a measurement cannot change when the model is trained further.

    Raises `FlatlibError` if the model cannot be copied, has no parameter, lies on several devices, or is neither
    float32 nor float64 after the cast to `dtype`.
    """
    if not any(True for _ in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has no parameter: there is nothing to measure")
    # Seeding the memo copies parameters by value only: a `.grad` that still carries a graph cannot be deep-copied.
    memo = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in model.parameters()}
    try:
        frozen = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise FlatlibError(f"{type(model).__name__} cannot be copied for measuring: {error}") from error
    if dtype is not None:
        _require_measurable(dtype)
        frozen = frozen.to(dtype)
    for what in ("dtype", "device"):
        found = {str(getattr(p, what)) for p in frozen.parameters()}
        if len(found) > 1:
            raise FlatlibError(f"the parameters have more than one {what}: {', '.join(sorted(found))}")
    _require_measurable(next(frozen.parameters()).dtype)
    return frozen


def _require_measurable(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise FlatlibError(
            f"curvature in {dtype} is wrong by several percent: pass dtype=torch.float32 or torch.float64"
        )


def set_modes(model: nn.Module, batch_norm: str) -> None:
    """Evaluation mode, so that dropout is off; with `batch_norm="train"` batch norm alone uses batch statistics."""
    if batch_norm not in BATCH_NORM:
        raise FlatlibError(f'batch_norm="{batch_norm}" is unknown; choose one of {", ".join(BATCH_NORM)}')
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_norm == "train")


@contextmanager
def measuring(device: torch.device) -> Iterator[None]:
    """Gradients on, autocast and TF32 off, attention twice differentiable, the random state as it was.

    Raises `FlatlibError` if something inside drew from the global random state: what was measured is then not a
    function (functional dropout left on, for example; it makes two products differ by more than half).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the only kernel with a second derivative
        stack.enter_context(_full_precision())
        stack.enter_context(_undrawn_randomness(device))
        yield


@contextmanager
def _full_precision() -> Iterator[None]:
    before = [switch.fp32_precision for switch in PRECISION_SWITCHES]
    try:
        for switch in PRECISION_SWITCHES:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(PRECISION_SWITCHES, before, strict=True):
            switch.fp32_precision = precision


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
