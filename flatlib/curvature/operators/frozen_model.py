"""A frozen state of a model for measuring: full precision, no dropout, no random numbers, the reader's own code."""

import collections
import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from flatlib.curvature.operators.forward import forward
from flatlib.curvature.operators.measurement_mode import measurement_mode
from flatlib.curvature.operators.precision import common, measured_dtype
from flatlib.curvature.operators.substitution import Substitution
from flatlib.errors import FlatlibError

BATCH_NORM = ("eval", "train", "recalibrated")
COMPILED = "_compiled_call_impl"  # where ``Module.compile`` keeps the compiled call


class FrozenModel:
    """State of a model, and of a loss that is a module, which later training does not change.

    ``module`` is a copy of the tree of modules, with parameters and buffers of its own. What is not a module, a tensor
    or a container of these is shared with the model, so that nothing has to be copied that cannot be. Within
    ``measuring`` the model's own modules have the state of their copies, and PyTorch's functions get the copies of
    the model's own parameters: a ``forward`` assigned to the instance, hooks and losses that hold the model or its
    parameters then compute with what is measured.

    Args:
        model: Any network with parameters; ``torch.compile`` and parallel wrappers are removed.
        loss: Callable that is frozen along, if it is a module.
        dtype: torch.float32 or torch.float64 to cast the copy; by default the model's own.

    Attributes:
        module: The copy.
        loss: The loss, or its copy.

    Raises:
        FlatlibError: If the model cannot be copied, has no parameter or one without values, lies on several devices, or
            is neither float32 nor float64 after the cast.
    """

    @torch.inference_mode(False)
    def __init__(self, model: "nn.Module | FrozenModel", loss: Any = None, *, dtype: torch.dtype | None = None):
        source = model.module if isinstance(model, FrozenModel) else unwrapped(model)
        _require_parameters(source)
        self._dtype = dtype
        self._owners = {p.data_ptr(): p for p in source.parameters() if _fills_memory(p)}
        self._copies: dict[int, Any] = {}  # of modules and tensors, by the identity of the original
        self._modules: list[nn.Module] = []  # the originals
        self._states: list[dict[str, Any]] = []  # what each original has as ``__dict__`` while it is measured
        self._parameters: list[tuple[nn.Parameter, nn.Parameter]] = []  # originals and their copies
        self.module: nn.Module = self._module(source)
        self.loss = self._module(loss) if isinstance(loss, nn.Module) else loss
        if isinstance(model, FrozenModel):
            self._stand_for(model)
        self._copies.clear()  # it may hold activations that the model remembers
        self.dtype, self.device = common(self.module)
        self._values: dict[int, Tensor] = {id(p): copied for p, copied in self._parameters}

    def _module(self, module: nn.Module) -> nn.Module:
        """Return the copy of a module, made when it is first met."""
        module = unwrapped(module)
        if id(module) in self._copies:
            return self._copies[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            return self._scripted(module)
        copied = self._copies[id(module)] = object.__new__(type(module))
        state = {name: self._copy(value) for name, value in vars(module).items()} | {COMPILED: None}
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            state["sparse"] = False  # the same gradient, as a tensor that can be multiplied
        object.__setattr__(copied, "__dict__", state)
        for name in (name for kind in type(module).__mro__ for name in vars(kind).get("__slots__", ())):
            if hasattr(module, name):
                object.__setattr__(copied, name, self._copy(getattr(module, name)))
        self._modules.append(module)
        self._states.append(state)
        return copied

    def _scripted(self, module: Any) -> Any:
        """Return the copy of a module whose state is not Python's, so that the module itself keeps its own."""
        with torch.no_grad():  # its copies would otherwise remember what they were copied from
            scripted = self._copies[id(module)] = copy.deepcopy(module)
        if self._dtype:
            scripted.to(self._dtype)
        for p, copied in zip(module.parameters(), scripted.parameters(), strict=True):
            self._parameters.append((p, copied.requires_grad_(p.requires_grad)))
        return scripted

    def _copy(self, value: Any) -> Any:
        """Return the copy of a module, tensor or container, and anything else as it is."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in (list, tuple, set):
            return type(value)(self._copy(item) for item in value)
        if type(value) in (dict, collections.OrderedDict):
            return type(value)((key, self._copy(item)) for key, item in value.items())
        return value.clone_state() if isinstance(value, torch.Generator) else value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if (owner := self._viewed(tensor)) is not None:
            return self._copy(owner).detach().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        copied = tensor.detach().clone()
        if self._dtype:
            copied = copied.to(measured_dtype(copied, self._dtype))
        if isinstance(tensor, nn.Parameter):
            copied = nn.Parameter(copied, tensor.requires_grad)
            self._parameters.append((tensor, copied))
        self._copies[id(tensor)] = copied
        return copied

    def _viewed(self, tensor: Tensor) -> nn.Parameter | None:
        """Return the parameter that a tensor is a view of, and so changes with."""
        if isinstance(tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_meta:
            return None
        owner = self._owners.get(tensor.untyped_storage().data_ptr())
        return owner if owner is not None and owner.dtype == tensor.dtype else None

    def _stand_for(self, earlier: "FrozenModel") -> None:
        """Replace what an earlier frozen state, which this one is a copy of, replaces."""
        states = {id(vars(module)): state for module, state in zip(self._modules, self._states, strict=True)}
        for module, state in zip(earlier._modules, earlier._states, strict=True):
            if id(state) in states:
                self._modules.append(module)
                self._states.append(states[id(state)])
        copies = {id(middle): copied for middle, copied in self._parameters}
        self._parameters += [(p, copies[id(middle)]) for p, middle in earlier._parameters if id(middle) in copies]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Give the model's own modules their frozen state, and compute as ``measurement_mode`` says."""
        before = [vars(module) for module in self._modules]
        with measurement_mode(self.device) as stack:
            stack.callback(_set_states, self._modules, before)
            _set_states(self._modules, self._states)
            yield

    def substituted(self) -> TorchFunctionMode:
        """Replace the model's own parameters by the frozen ones in the arguments of PyTorch's functions."""
        return Substitution(self._values, self.dtype)

    @property
    def originals(self) -> set[int]:
        """Identities of the model's own parameters, which must not be in a graph."""
        return {id(p) for p, _ in self._parameters}

    @contextmanager
    def displaced(self, values: dict[str, Tensor]) -> Iterator[None]:
        """Put tensors in the place of the frozen parameters with these names; they may carry a graph."""
        named = dict(self.module.named_parameters(remove_duplicate=False))
        new = {id(named[name]): value for name, value in values.items()}
        places = [state["_parameters"] for state in self._states]
        slots = [(place, name, p) for place in places for name, p in place.items() if id(p) in new]
        before = self._values
        try:
            self._values = {id(p): new.get(id(copied), copied) for p, copied in self._parameters} | new
            for place, name, p in slots:
                place[name] = new[id(p)]
            yield
        finally:
            self._values = before
            for place, name, p in slots:
                place[name] = p

    def __call__(self, inputs: Any) -> Any:
        """Return the output, or raise a ``FlatlibError`` if the model fails or changes its buffers.

        A tuple or list of inputs is passed by position, a mapping by name.
        """
        with self.substituted():
            return forward(self.module, inputs)


def _set_states(modules: list[nn.Module], states: Iterable[dict]) -> None:
    """Set the ``__dict__`` of each module; one call, between whose parts Python handles no interrupt."""
    collections.deque(map(object.__setattr__, modules, itertools.repeat("__dict__"), states), maxlen=0)


def unwrapped(model: Any) -> nn.Module:
    """Return the model inside ``torch.compile``, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # its class comes with the compiler, which takes a second
            model = model._orig_mod
        else:
            return model


def _require_parameters(model: nn.Module) -> None:
    if not any(True for _ in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has no parameter: there is nothing to measure")
    if any(p.is_meta or isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise FlatlibError(f"{type(model).__name__} has a parameter without values: initialize it first")
    places = [p.data_ptr() for p in model.parameters() if p.layout == torch.strided and p.numel()]
    if len(set(places)) < len(places):
        raise FlatlibError("two parameters share their memory: to tie them, assign one parameter to both modules")


def _fills_memory(p: nn.Parameter) -> bool:
    return p.layout == torch.strided and 0 < p.numel() * p.element_size() == p.untyped_storage().nbytes()


def set_modes(model: nn.Module, batch_norm: str) -> None:
    """Set evaluation mode, without dropout; with ``batch_norm="train"`` batch norm alone uses batch statistics."""
    if batch_norm not in BATCH_NORM:
        raise FlatlibError(f'batch_norm="{batch_norm}" is unknown; choose one of {", ".join(BATCH_NORM)}')
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(batch_norm == "train")
