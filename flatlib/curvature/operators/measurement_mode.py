"""How everything is measured: in full precision, with gradients, without random numbers or compiled functions."""

import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlib.curvature.operators.double_backward import without_checkpoints
from flatlib.device import current, full_precision, global_generators, switched
from flatlib.errors import FlatlibError


@contextmanager
def measurement_mode(device: torch.device) -> Iterator[ExitStack]:
    """Enable gradients and twice differentiable attention; disable autocast, TF32 and activation checkpoints; restore
    the random state.

    Yields a stack, on which the caller puts what has to be undone at the end, whatever happens.

    Raises:
        FlatlibError: If the body draws from the global random state, as functional dropout does: what is measured is
            then not a function.
    """
    with ExitStack() as stack:  # it undoes what the lines below have done if these are interrupted
        with _uninterrupted():
            stack.enter_context(_same_modes())
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
        failure: BaseException | None = None
        try:
            yield stack
        except BaseException as error:
            failure = error
            raise
        finally:
            with _uninterrupted():
                stack.__exit__(type(failure) if failure else None, failure, None)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt from the keyboard wait for the end of the context."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[Any] = []
    try:
        signal.signal(signal.SIGINT, lambda *arguments: waiting.append(arguments))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if waiting:
        handler(*waiting[0])


@contextmanager
def _same_modes() -> Iterator[None]:
    """Take away the modes of PyTorch's functions that an interrupt left behind."""
    before = torch._C._len_torch_function_stack()
    try:
        yield
    finally:
        while torch._C._len_torch_function_stack() > before:
            torch._C._pop_torch_function_stack()


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


@contextmanager
def others_restored() -> Iterator[None]:
    """Restore Python's and NumPy's random states, of which the model or loss may draw before it is refused.

    In the main thread only: those of a cluster's worker are used by its other threads meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrays = np.random.mtrand._rand  # type: ignore[attr-defined]  # the instance behind NumPy's functions
    python, numpy = random.getstate(), arrays.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        arrays.set_state(numpy)
