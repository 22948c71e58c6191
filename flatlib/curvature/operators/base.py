"""Base class of the curvature operators: products with a matrix of an empirical risk, chunk by chunk."""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.batch_norm import recalibrate
from flatlib.curvature.operators.chunk_memory import VECTORS, affordable_examples, kept_bytes, product_bytes
from flatlib.curvature.operators.double_backward import FastDoubleBackward
from flatlib.curvature.operators.empirical_risk import (
    Data,
    Loss,
    collect_batches,
    require_additive,
    require_independent,
    require_inputs,
    require_mean,
    select_parameters,
)
from flatlib.curvature.operators.frozen_model import forward, frozen_copy, measurement_mode, set_modes
from flatlib.curvature.operators.precision import measured_dtype
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.errors import FlatlibError, NotFinite, explained
from flatlib.losses import LOSSES, resolve_loss

# Rounding error of a zero product, in units in the last place; measured 0.5, for biases under batch norm in train mode.
NOISE = 10.0

Vectors = TypeVar("Vectors", Tensor, np.ndarray)


class CurvatureOperator(ABC):
    r"""Curvature matrix $C$ of $L(\theta) = \frac1N \sum_i \ell(f_\theta(x_i), y_i)$ as a linear operator.

    Operators multiply tensors and NumPy arrays, and ``scipy.sparse.linalg`` accepts them. They work on a frozen copy of
    the model: training it further does not change them. The graph that products share is kept between them if all
    examples fit one chunk; otherwise it is rebuilt, chunk by chunk, in every product.

    Args:
        model: Network that maps inputs (N, ...) to outputs (N, ...), each example independently of the others.
        loss: "cross_entropy", "mse", or a callable (output, target) -> scalar that averages over examples.
        data: (inputs, targets), or an iterable of such batches, which is read once; batches may differ in size.
        batch_norm: "eval" uses the running statistics, "train" those of the data as one batch, which then depend on the
            parameters, "recalibrated" running statistics estimated again on the data. Dropout is always off.
        chunk_size: Examples per chunk; by default as many as are predicted to fit a quarter of the free memory.
        parameters: Names or shell patterns ("layer.*.weight") of the block to measure; by default all that need grad.
        dtype: torch.float32 or torch.float64 to measure a cast copy; by default the model's own.

    Attributes:
        shape: (n, n), where n is the number of parameters measured.
        dtype: NumPy's name of ``torch_dtype``, in which products are computed.
        examples: N.

    Raises:
        FlatlibError: In the constructor for unusable arguments, in the first product for a loss or gradient that is not
            finite.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        batch_norm: str = "eval",
        chunk_size: int | None = None,
        parameters: str | Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ):
        self.model = frozen_copy(model, dtype=dtype)
        self.batch_norm = batch_norm
        set_modes(self.model, batch_norm)
        self.loss = resolve_loss(loss)
        self.parameters = select_parameters(self.model, parameters)
        first = next(iter(self.parameters.values()))
        self.torch_dtype, self.device = first.dtype, first.device
        self.dtype = np.dtype(str(first.dtype).removeprefix("torch."))
        self._sizes = [p.numel() for p in self.parameters.values()]
        self.shape = (sum(self._sizes), sum(self._sizes))
        self._inputs, self._targets, batches = collect_batches(data)
        require_inputs(self.model, self._inputs)
        self.examples = len(self._inputs)
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of examples")
        if batch_norm == "train":
            if batches > 1 or (chunk_size or self.examples) < self.examples:
                raise FlatlibError(
                    f'batch_norm="train" needs one batch: pass the {self.examples} examples as one, unchunked'
                )
            chunk_size = self.examples
        self.chunk_size = min(chunk_size or affordable_examples(self._kept_bytes, self.device), self.examples)
        self._graph: Any = None
        self._is_checked = False
        self._loss_size = 0.0
        if batch_norm == "recalibrated":
            with measurement_mode(self.device), explained(f"{type(self.model).__name__} fails on the inputs"):
                recalibrate(self.model, lambda: (x for x, _ in self.chunks()))

    @abstractmethod
    def _build(self, x: Tensor, y: Tensor) -> Any:
        """Return the graph that all products with one chunk's matrix share."""

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
    def data(self) -> tuple[Tensor, Tensor]:
        """All inputs and targets, as they were passed."""
        return self._inputs, self._targets

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of at most ``chunk_size`` examples, in the operator's dtype and on its device."""
        for x, y in zip(self._inputs.split(self.chunk_size), self._targets.split(self.chunk_size), strict=True):
            yield self._cast(x), self._cast(y)

    def _cast(self, data: Tensor) -> Tensor:
        return data.to(self.device, measured_dtype(data, self.torch_dtype))

    def output(self, x: Tensor) -> Tensor:
        """Return the model's output for one chunk's inputs, or raise a ``FlatlibError`` if it fails."""
        return forward(self.model, x)

    def _differentiable(self, gradient: Iterable[Tensor], v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the entries of the gradient that have a derivative, and the pieces of v that belong to them."""
        pieces = zip(gradient, v.split(self._sizes), strict=True)
        pairs = [(g, piece.view_as(g)) for g, piece in pieces if g.requires_grad]
        return [g for g, _ in pairs], [piece for _, piece in pairs]

    def _chunk_output(self, x: Tensor) -> Tensor:
        """Return the output for a product; check the first of several chunks for independent examples."""
        with FastDoubleBackward():
            output = self.output(x)
            if not self._is_checked and self.chunk_size < self.examples and isinstance(output, Tensor):
                with torch.no_grad():
                    require_independent(output, self.output(x[len(x) // 3 :]))
        return output

    def _mean(self, evaluate: Callable[[Any], Tensor]) -> Tensor:
        """Return the mean over all examples of a function of each chunk's graph."""
        with measurement_mode(self.device):
            if self._graph is None and self.chunk_size == self.examples:
                self._graph = self._build(*next(self.chunks()))
            if self._graph is not None:
                return evaluate(self._graph)
            total = torch.zeros((), dtype=self.torch_dtype, device=self.device)
            for x, y in self.chunks():
                # A chunk's graph gets no name, so that it is freed before the next one is built.
                total = total + len(x) / self.examples * evaluate(self._build(x, y))
            return total

    def checked_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of one chunk, or raise a ``FlatlibError`` if it is not a finite scalar."""
        kind = f"outputs of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        with explained(f"the loss fails on {kind} and targets of shape {tuple(target.shape)}"):
            with FastDoubleBackward():
                value = self.loss(output, target)
            if not isinstance(value, Tensor) or value.ndim != 0:
                found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise FlatlibError(f"the loss is {found}: it must be a mean over examples, a scalar tensor")
            if not torch.isfinite(value):
                raise NotFinite(f"the loss is {value.item()}: its curvature is not defined")
            self._loss_size = max(self._loss_size, abs(value.item()))
            if not self._is_checked and isinstance(output, Tensor) and output.ndim > 0:
                self._check_average(output, target, value.item())
        return value

    def _check_average(self, output: Tensor, target: Tensor, value: float) -> None:
        """Check on the first chunk that the loss is an average, and adds up if there are several chunks."""
        if self.loss not in LOSSES.values():
            require_mean(self.loss, output, target, value)
        if self.chunk_size < self.examples:
            require_additive(self.loss, output, target, value)
        self._is_checked = True

    def subsampled(self, examples: int, generator: torch.Generator) -> Self:
        """Return the operator of the same model on a random subset of the examples, drawn from the generator."""
        chosen = torch.randperm(self.examples, generator=generator)[:examples].to(self._inputs.device)
        part = copy.copy(self)
        part._inputs, part._targets = self._inputs[chosen], self._targets[chosen.to(self._targets.device)]
        part.examples, part.chunk_size, part._graph = examples, min(self.chunk_size, examples), None
        return part

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
        with measurement_mode(self.device):
            return kept_bytes(self.model, self._cast(self._inputs[:2]))  # train-mode batch norm refuses one example


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate all entries to one detached vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
