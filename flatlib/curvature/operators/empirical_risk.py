"""The empirical risk whose curvature is measured: model, loss, examples and parameters, checked before use."""

import copy
import functools
import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.batch_norm import recalibrate
from flatlib.curvature.operators.chunk_memory import affordable_examples, kept_bytes, product_bytes
from flatlib.curvature.operators.double_backward import FastDoubleBackward
from flatlib.curvature.operators.examples import FEW, Chunk, Data, Examples
from flatlib.curvature.operators.forward import unchanged_buffers
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.curvature.operators.measurement_mode import others_restored
from flatlib.curvature.operators.nested import mapped, shapes
from flatlib.curvature.operators.parameters import select_parameters
from flatlib.curvature.operators.precision import measured_dtype
from flatlib.device import free_memory
from flatlib.errors import FlatlibError, NotFinite, explained
from flatlib.losses import inputs_in_a_batch, required_arguments, resolve_loss

Loss = str | Callable[..., Tensor]


class EmpiricalRisk(ABC):
    r"""Risk $L(\theta) = \frac1N \sum_i \ell(f_\theta(x_i), y_i)$ of a frozen state of a model, chunk by chunk.

    Arguments and errors are those of ``CurvatureOperator``.
    """

    def __init__(
        self,
        model: nn.Module | FrozenModel,
        loss: Loss,
        data: Data,
        *,
        batch_norm: str = "eval",
        chunk_size: int | None = None,
        parameters: str | Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ):
        loss = resolve_loss(loss)
        self._inputs = inputs_in_a_batch(loss)
        self.batch_norm = batch_norm
        self._freeze(FrozenModel(model, loss, dtype=dtype))
        with explained(f"{type(self.model).__name__} cannot be set to evaluation mode"):
            set_modes(self.model, batch_norm)
        self._select(parameters)
        self._take(Examples.read(data, self._inputs))
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of examples")
        if batch_norm == "train":
            if self._examples.batches > 1 or (chunk_size or self.examples) < self.examples:
                raise FlatlibError(
                    f'batch_norm="train" needs one batch: pass the {self.examples} examples as one, unchunked'
                )
            chunk_size = self.examples
        self._compared: set[str] = set()  # derivatives that were compared with differences
        self._is_fixed = chunk_size is not None
        self.chunk_size = min(chunk_size or affordable_examples(self._kept_bytes, self.device), self.examples)
        if batch_norm == "recalibrated":
            with self.measuring(), explained(f"{type(self.model).__name__} fails on the inputs"):
                recalibrate(self.model, lambda: (self._cast(chunk.inputs) for chunk in self._cut()))

    def _freeze(self, frozen: FrozenModel) -> None:
        self.frozen, self.model, self.loss = frozen, frozen.module, frozen.loss
        self.torch_dtype, self.device = frozen.dtype, frozen.device
        self.dtype = np.dtype(str(frozen.dtype).removeprefix("torch."))

    def _select(self, parameters: str | Sequence[str] | None) -> None:
        self.parameters = select_parameters(self.model, parameters)
        self._sizes = [p.numel() for p in self.parameters.values()]
        self.shape = (sum(self._sizes), sum(self._sizes))

    def _take(self, examples: Examples) -> None:
        self._examples, self.examples = examples, len(examples)
        self._shares: list[float] | None = None
        self._loss_size = 0.0

    def trust(self, other: Self) -> None:
        """Count derivatives as compared where those of the same model, loss and data at other weights have been."""
        self._compared = other._compared

    @property
    def data(self) -> Any:
        """All inputs and targets, as they were passed; None if batches could not be joined to one pair of tensors."""
        return self._examples.pair

    def measuring(self) -> Any:
        """Compute as every measure does, with the model's own modules in their frozen state."""
        return self.frozen.measuring()

    def chunks(self) -> Iterator[Chunk]:
        """Yield at most ``chunk_size`` examples at a time, on the device, with their shares of the loss."""
        shares = self.shares  # first: they may need all examples as one chunk
        for chunk, share in zip(self._cut(), shares, strict=True):
            if share:
                yield self.cast(chunk)._replace(share=share)

    def _cut(self) -> Iterator[Chunk]:
        for part in self._examples.parts:
            yield from part.split(self.chunk_size)

    @property
    def parts(self) -> list[Chunk]:
        """All examples, joined as far as their shapes allow, as they were passed."""
        return self._examples.parts

    def few(self, count: int) -> Chunk:
        """Return at most so many examples of the first part, on the device."""
        return self.cast(self._examples.few(count).parts[0])

    def cast(self, chunk: Chunk) -> Chunk:
        """Return the chunk in the operator's dtype and on its device."""
        return chunk._replace(inputs=self._cast(chunk.inputs), targets=self._cast(chunk.targets))

    def may_take_one_chunk(self) -> bool:
        """Take all examples as one chunk if no other size was asked for and memory is left, and say whether."""
        if self._is_fixed or self.examples * product_bytes(self._kept_bytes) > free_memory(self.device):
            return False
        self.chunk_size = self.examples
        return True

    def _cast(self, nest: Any) -> Any:
        return mapped(nest, lambda t: t.to(self.device, measured_dtype(t, self.torch_dtype)))

    @property
    @abstractmethod
    def shares(self) -> list[float]:
        """Weight of each chunk's loss in the loss of all examples; everything is checked when they are first needed."""

    def output(self, inputs: Any) -> Any:
        """Return the model's output for one chunk's inputs, or raise a ``FlatlibError`` if it fails."""
        return self.frozen(inputs)

    def twice_differentiable_output(self, inputs: Any) -> Any:
        """Return ``output`` with the second derivatives of ``FastDoubleBackward``."""
        with FastDoubleBackward():
            return self.frozen(inputs)

    @property
    def takes_model(self) -> bool:
        """Whether the loss is a function of (model, batch), so that there is no output to speak of."""
        return self._inputs is None

    def checked_loss(self, output: Any, targets: Any) -> Tensor:
        """Return the loss of one chunk, or raise a ``FlatlibError`` if it is not a finite scalar."""
        with explained(f"the loss fails on outputs of {shapes(output)} and targets of {shapes(targets)}"):
            return self._checked(output, targets)

    def chunk_loss(self, chunk: Chunk) -> Tensor:
        """Return the loss of one chunk with its graph, or raise a ``FlatlibError`` if it is not a finite scalar."""
        if not self.takes_model:
            return self.checked_loss(self.twice_differentiable_output(chunk.inputs), chunk.targets)
        with explained(f"the loss fails on {type(self.model).__name__} and a batch of {shapes(chunk.inputs)}"):
            return self._checked(self.model, chunk.inputs)

    def chunk_slopes(self, chunk: Chunk) -> list[Tensor]:
        """Return the gradient of one chunk's loss in each parameter tensor."""
        loss, inputs = self.chunk_loss(chunk), list(self.parameters.values())
        return list(torch.autograd.grad(loss, inputs, materialize_grads=True)) if loss.requires_grad else []

    def _checked(self, first: Any, second: Any) -> Tensor:
        """Call the loss on copies of the data, which it may change."""
        second = mapped(second, torch.clone)
        spread = isinstance(second, tuple) and len(required_arguments(self.loss)) > 2
        arguments = second if spread else (second,)
        loss = self.loss if isinstance(self.loss, nn.Module) else nn.Identity()
        with FastDoubleBackward(), self.frozen.substituted(), unchanged_buffers(loss):
            value = self.loss(first, *arguments)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise FlatlibError(f"the loss is {found}: it must be a mean over examples, a scalar tensor")
        if not torch.isfinite(value):
            raise NotFinite(f"the loss is {value.item()}: its curvature is not defined")
        self._loss_size = max(self._loss_size, abs(value.item()))
        return value

    @property
    def bytes_per_example(self) -> int:
        """Bytes that one example's forward pass saves for the backward pass, parameters aside."""
        return sum(self._kept_bytes)

    @functools.cached_property
    def _kept_bytes(self) -> list[int]:
        chunk = self.few(2)  # train-mode batch norm refuses one example
        with others_restored(), self.measuring():
            run = (lambda: self.chunk_loss(chunk)) if self.takes_model else (lambda: self.output(chunk.inputs))
            return kept_bytes(self.model, chunk.size, run)

    @functools.cached_property
    def loss_uses_parameters(self) -> bool:
        """Whether the loss depends on the parameters beside the outputs, as with a penalty."""
        few = self.few(FEW)
        try:
            with self.measuring():
                output = None if self.takes_model else mapped(self.output(few.inputs), Tensor.detach)
                return self.takes_model or self.checked_loss(output, few.targets).requires_grad
        except NotFinite:  # none of these counts
            return True

    @abstractmethod
    def point(self) -> float:
        """Return the loss at the present weights, and keep its graph for the functions that follow."""

    @abstractmethod
    def point_gradient(self) -> Tensor:
        """Return the gradient at the last ``point``, (n,)."""

    @abstractmethod
    def difference_product(self, v: Tensor) -> Tensor | None:
        """Return the product with v at the last ``point``."""

    @abstractmethod
    def differenced(self, u: Tensor) -> list[Tensor]:
        """Return, at the last ``point``, that of which differences along v give the product with v."""

    @abstractmethod
    def along(self, u: Tensor, change: list[Tensor]) -> float:
        """Return the component along u of the product that a change of ``differenced`` gives."""

    @abstractmethod
    def gradient_size(self, gradient: Tensor) -> float:
        """Return the size that the rounding of the last ``point``'s gradient goes with."""

    def sampled(self, count: int, dtype: torch.dtype) -> Self:
        """Return the operator of a copy in this dtype on at most so many of the examples, as one chunk, unchecked."""
        part = copy.copy(self)
        part._freeze(FrozenModel(self.frozen, self.loss, dtype=dtype))
        part._select([glob.escape(name) for name in self.parameters])
        part._take(self._examples.few(count))
        part.chunk_size, part._shares, part._compared = part.examples, [1.0], {"gradient", "product"}
        return part
