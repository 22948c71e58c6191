"""How everything is measured: in full precision, with gradients, without random numbers or compiled functions."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.curvature.operators.double_backward import without_checkpoints
from flatlib.device import current, full_precision, global_generators, switched
from flatlib.errors import FlatlibError


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
        stack.enter_context(switched("set_autocast_enabled", lambda *_: None, torch))  # by the model itself
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the only kernel with a second derivative
        stack.enter_context(without_checkpoints())
        stack.enter_context(full_precision())
        if "torch._dynamo" in sys.modules:  # compiled functions have no second derivative
            stack.enter_context(torch.compiler.set_stance("force_eager"))
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
