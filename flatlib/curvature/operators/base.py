"""Base class of the curvature operators: products with a matrix of an empirical risk, chunk by chunk."""

import copy
import functools
import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.batch_norm import recalibrate
from flatlib.curvature.operators.chunk_memory import VECTORS, affordable_examples, kept_bytes, product_bytes
from flatlib.curvature.operators.chunk_shares import risk_shares
from flatlib.curvature.operators.double_backward import FastDoubleBackward
from flatlib.curvature.operators.empirical_risk import Data, Loss, inputs_in_a_batch, select_parameters
from flatlib.curvature.operators.examples import Chunk, Examples
from flatlib.curvature.operators.finite_differences import EXAMPLES, Point, require_derivatives
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.curvature.operators.nested import mapped, shapes
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.device import free_memory
from flatlib.errors import FlatlibError, NotFinite, explained
from flatlib.losses import resolve_loss

# Rounding error of a zero product, in units in the last place; measured 0.5, for biases under batch norm in train mode.
NOISE = 10.0

Vectors = TypeVar("Vectors", Tensor, np.ndarray)


class CurvatureOperator(ABC):
    r"""Curvature matrix $C$ of $L(\theta) = \frac1N \sum_i \ell(f_\theta(x_i), y_i)$ as a linear operator.

    Operators multiply tensors and NumPy arrays, and ``scipy.sparse.linalg`` accepts them. They work on a frozen state
    of the model: training it further does not change them. The graph that products share is kept between them if all
    examples fit one chunk; otherwise it is rebuilt, chunk by chunk, in every product.

    Before the first product the loss is checked to be a mean over examples, each chunk gets the weight that it has in
    the loss of all examples, and gradient and product are compared with differences of the loss on a few examples
    (``finite_differences``): what cannot be measured right is refused.

    Args:
        model: Network that maps inputs to outputs, each example independently of the others.
        loss: "cross_entropy", "mse", or a callable (output, target) -> scalar that averages over examples, or over what
            counts in them. One of three arguments gets sample weights as well; one whose first argument is called
            ``model`` is called with (model, batch).
        data: A batch, or an iterable of batches, which is read once; batches may differ in size. A batch is (inputs,
            targets), (first input, second input, ..., targets) or a mapping with the key ``labels``, ``label``,
            ``targets``, ``target`` or ``y``. Inputs are a tensor, a tuple, passed by position, or a mapping, passed by
            name; NumPy arrays count as tensors.
        batch_norm: "eval" uses the running statistics, "train" those of the data as one batch, which then depend on the
            parameters, "recalibrated" running statistics estimated again on the data. Dropout is always off.
        chunk_size: Examples per chunk; by default as many as are predicted to fit a quarter of the free memory, or all
            where the loss is not a sum over chunks.
        parameters: Names or shell patterns ("layer.*.weight") of the block to measure; by default all that need grad.
        dtype: torch.float32 or torch.float64 to measure a cast copy; by default the model's own.

    Attributes:
        shape: (n, n), where n is the number of parameters measured.
        dtype: NumPy's name of ``torch_dtype``, in which products are computed.
        examples: N.

    Raises:
        FlatlibError: In the constructor for unusable arguments, in the first product for what cannot be measured right.
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
        set_modes(self.model, batch_norm)
        self._select(parameters)
        self._take(data if isinstance(data, Examples) else Examples(data, self._inputs))
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of examples")
        if batch_norm == "train":
            if self._examples.batches > 1 or (chunk_size or self.examples) < self.examples:
                raise FlatlibError(
                    f'batch_norm="train" needs one batch: pass the {self.examples} examples as one, unchunked'
                )
            chunk_size = self.examples
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
        self._graph: Any = None
        self._shares: list[float] | None = None
        self._loss_size = 0.0

    @abstractmethod
    def _build(self, chunk: Chunk) -> Any:
        """Return the graph that all products with one chunk's matrix share; its ``loss`` is the chunk's loss."""

    @abstractmethod
    def _product(self, graph: Any, v: Tensor) -> Tensor:
        """Return the product of one chunk's matrix and v, (n,)."""

    @abstractmethod
    def _chunk_gradient(self, graph: Any) -> Tensor:
        """Return the gradient of one chunk's loss, (n,)."""

    def matvec(self, v: Vectors) -> Vectors:
        """Return $Cv$ for v of shape (n,), flat in the order of ``parameters``; a tensor or an array, as v is."""
        return self.matmat(v.reshape(-1, 1)).reshape(-1)

    def matmat(self, V: Vectors) -> Vectors:
        """Return $CV$ for V of shape (n, k); each chunk's graph is built once for all k columns."""
        if isinstance(V, np.ndarray):
            return self.matmat(torch.as_tensor(V)).cpu().numpy()
        if V.ndim != 2 or len(V) != self.shape[0]:
            raise FlatlibError(f"a product needs vectors of length {self.shape[0]}, got the shape {tuple(V.shape)}")
        columns = V.detach().to(self.device, self.torch_dtype).T.contiguous()

        return self._mean(lambda graph: torch.stack([self._product(graph, column) for column in columns])).T

    def gradient(self) -> Tensor:
        r"""Return $\nabla L$, shape (n,)."""
        return self._mean(self._chunk_gradient)

    def to_dense(self) -> Tensor:
        """Return $C$ as an (n, n) matrix, from n products."""
        dense = self.matmat(torch.eye(self.shape[0], dtype=self.torch_dtype, device=self.device))
        require_symmetric(dense, self.noise)
        return dense

    @property
    def noise(self) -> float:
        """Norm that rounding gives a zero product with a unit vector, roughly; known after the first product."""
        return NOISE * torch.finfo(self.torch_dtype).eps * self._loss_size

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
    def shares(self) -> list[float]:
        """Weight of each chunk's loss in the loss of all examples; everything is checked when they are first needed."""
        if self._shares is None:
            with self.measuring():
                self._shares = risk_shares(self)
                require_derivatives(self)
        return self._shares

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
        return mapped(nest, lambda t: t.to(self.device, self.torch_dtype if t.is_floating_point() else None))

    def output(self, inputs: Any) -> Any:
        """Return the model's output for one chunk's inputs, or raise a ``FlatlibError`` if it fails."""
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
            return self.checked_loss(self.output(chunk.inputs), chunk.targets)
        with explained(f"the loss fails on {type(self.model).__name__} and a batch of {shapes(chunk.inputs)}"):
            return self._checked(self.model, chunk.inputs)

    def chunk_slopes(self, chunk: Chunk) -> list[Tensor]:
        """Return the gradient of one chunk's loss in each parameter tensor."""
        loss, inputs = self.chunk_loss(chunk), list(self.parameters.values())
        return list(torch.autograd.grad(loss, inputs, materialize_grads=True)) if loss.requires_grad else []

    def _checked(self, first: Any, second: Any) -> Tensor:
        """Call the loss on copies of the data, which it may change."""
        second = mapped(second, torch.clone)
        arguments = second if self._inputs == 1 and isinstance(second, tuple) else (second,)
        with FastDoubleBackward(), self.frozen.substituted():
            value = self.loss(first, *arguments)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise FlatlibError(f"the loss is {found}: it must be a mean over examples, a scalar tensor")
        if not torch.isfinite(value):
            raise NotFinite(f"the loss is {value.item()}: its curvature is not defined")
        self._loss_size = max(self._loss_size, abs(value.item()))
        return value

    def _differentiable(self, gradient: Iterable[Tensor], v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the entries of the gradient that have a derivative, and the pieces of v that belong to them."""
        pieces = zip(gradient, v.split(self._sizes), strict=True)
        pairs = [(g, piece.view_as(g)) for g, piece in pieces if g.requires_grad]
        return [g for g, _ in pairs], [piece for _, piece in pairs]

    def _mean(self, evaluate: Callable[[Any], Tensor]) -> Tensor:
        """Return the mean over all examples of a function of each chunk's graph."""
        with self.measuring():
            if self._graph is None and len(self.shares) == 1:
                self._graph = self._build(*self.chunks())
            if self._graph is not None:
                return evaluate(self._graph)
            total = torch.zeros((), dtype=self.torch_dtype, device=self.device)
            for chunk in self.chunks():
                # A chunk's graph gets no name, so that it is freed before the next one is built.
                total = total + chunk.share * evaluate(self._build(chunk))
            return total

    def restricted(self, parameters: Sequence[str]) -> Self:
        """Return the operator of a block of the parameters, of the same model, examples and chunks."""
        part = copy.copy(self)
        part._freeze(FrozenModel(self.frozen, self.loss))
        part._select([glob.escape(name) for name in parameters])
        part._graph = None
        return part

    def replaced(self, layer: nn.Linear, weight: Tensor, inputs: Tensor) -> Self:
        """Return the operator with another weight of one layer of ``model`` and other inputs, for the same targets."""
        part = copy.copy(self)
        part._freeze(FrozenModel(self.frozen, self.loss))
        name = next(name for name, module in self.model.named_modules() if module is layer)
        part.model.get_submodule(name).weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        part._select([glob.escape(name) for name in self.parameters])
        shares = self._shares
        part._take(Examples.of([self._examples.parts[0]._replace(inputs=inputs)]))
        part._shares = shares
        return part

    @functools.cached_property
    def loss_uses_parameters(self) -> bool:
        """Whether the loss depends on the parameters beside the outputs, as with a penalty."""
        few = self.few(EXAMPLES)
        try:
            with self.measuring():
                output = None if self.takes_model else mapped(self.output(few.inputs), Tensor.detach)
                return self.takes_model or self.checked_loss(output, few.targets).requires_grad
        except NotFinite:  # none of these counts
            return True

    def sampled(self, count: int, dtype: torch.dtype) -> Self:
        """Return the operator of a copy in this dtype on at most so many of the examples, as one chunk, unchecked."""
        part = copy.copy(self)
        part._freeze(FrozenModel(self.frozen, self.loss, dtype=dtype))
        part._select([glob.escape(name) for name in self.parameters])
        part._take(self._examples.few(count))
        part.chunk_size, part._shares = part.examples, [1.0]
        return part

    def subsampled(self, examples: int, generator: torch.Generator) -> Self | None:
        """Return the operator of the same model on a random subset of the examples, drawn from the generator; None if
        they cannot be divided."""
        whole = self._examples.single
        if whole is None:
            return None
        part = copy.copy(self)
        part._take(Examples.of([whole.at(torch.randperm(self.examples, generator=generator)[:examples])]))
        part.chunk_size = min(self.chunk_size, examples)
        if part.chunk_size == examples:
            part._shares = [1.0]
        return part

    def point(self) -> Point:
        """Return loss and gradient at the present weights, and keep the graph of this point."""
        with self.measuring():
            self._graph = self._build(*self.chunks())
            return Point(float(self._graph.loss), self._chunk_gradient(self._graph))

    def difference_product(self, v: Tensor) -> Tensor | None:
        """Return the product with v if differences of the gradient must give the same, otherwise None."""
        return None

    @property
    def product_memory(self) -> int:
        """Upper bound of a product's memory in bytes; Lanczos adds one vector of length n per product."""
        vectors = VECTORS * self.shape[0] * self.torch_dtype.itemsize
        return self.chunk_size * product_bytes(self._kept_bytes) + vectors

    @property
    def bytes_per_example(self) -> int:
        """Bytes that one example's forward pass saves for the backward pass, parameters aside."""
        return sum(self._kept_bytes)

    @functools.cached_property
    def _kept_bytes(self) -> list[int]:
        chunk = self.few(2)  # train-mode batch norm refuses one example
        with self.measuring():
            run = (lambda: self.chunk_loss(chunk)) if self.takes_model else (lambda: self.output(chunk.inputs))
            return kept_bytes(self.model, chunk.size, run)


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate all entries to one detached vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
