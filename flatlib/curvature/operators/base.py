"""Curvature matrices of a training loss as matrix-free linear operators."""

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
from flatlib.curvature.operators.double_backward import FastLayers
from flatlib.curvature.operators.empirical_risk import (
    LOSSES,
    Data,
    Loss,
    collect_batches,
    require_additive,
    require_independent,
    require_inputs,
    require_mean,
    resolve_loss,
    select,
)
from flatlib.curvature.operators.frozen_model import frozen_copy, measurement_mode, run, set_modes
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.errors import FlatlibError, NotFinite, explained

NOISE = 10.0
"""Units in the last place; the biases under a batch norm in train mode have no curvature, and were seen to show 0.5."""

Vectors = TypeVar("Vectors", Tensor, np.ndarray)


class CurvatureOperator(ABC):
    r"""A curvature matrix $C$ of $L(\theta) = \frac1N \sum_i \ell(f_\theta(x_i), y_i)$ through products $v \mapsto Cv$.

    What a product needs of a chunk of examples (`_build`) is kept and reused between products when all examples fit one
    chunk; otherwise it is rebuilt, chunk by chunk, in every product.
    The operator is of the model as it was when the operator was made: it works on a copy (see `frozen_copy`).
    It multiplies tensors and NumPy arrays, and `scipy.sparse.linalg` takes it as it is: `dtype` is NumPy's name of
    `torch_dtype`, in which it computes.

    Parameters
    ----------
    model: maps a batch of inputs (N, ...) to outputs (N, ...), one example independent of the others.
    loss: "cross_entropy", "mse" (`resolve_loss`) or a callable (output, target) -> scalar, a mean over examples.
    data: (inputs, targets), or an iterable of such batches, which is read once; batches may be unequal.
    batch_norm: "eval" uses the running statistics, "train" those of the data as one batch, which then depend on the
        parameters, "recalibrated" running statistics estimated again on the data (`recalibrate`). Dropout is off.
    chunk_size: examples per chunk; by default as many as are predicted to fit `GRAPH_SHARE` of the free memory.
    parameters: names or shell patterns ("layer.*.weight") of the block to measure; by default all that require grad.
    dtype: torch.float32 or torch.float64 to measure a cast copy; by default the model's own.

    Raises
    ------
    FlatlibError: in the constructor for unusable arguments, in the first product for a loss or gradient not finite.
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
        self.parameters = select(self.model, parameters)
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
        self._kept: Any = None
        self._is_checked = False
        self._loss_size = 0.0
        if batch_norm == "recalibrated":
            with measurement_mode(self.device), explained(f"{type(self.model).__name__} fails on the inputs"):
                recalibrate(self.model, lambda: (x for x, _ in self.chunks()))

    @abstractmethod
    def _build(self, x: Tensor, y: Tensor) -> Any:
        """What the products with one chunk's matrix share."""

    @abstractmethod
    def _product(self, built: Any, v: Tensor) -> Tensor:
        """The product of one chunk's matrix and v, (n,)."""

    @abstractmethod
    def _chunk_gradient(self, built: Any) -> Tensor:
        """The gradient of one chunk's loss, (n,)."""

    def matvec(self, v: Vectors) -> Vectors:
        """$Cv$ for v of shape (n,), flat in the order of `parameters`; a tensor or an array, as v is."""
        return self.matmat(v.reshape(-1, 1)).reshape(-1)

    def matmat(self, V: Vectors) -> Vectors:
        """$CV$ for V of shape (n, k); each chunk's graph is built once for all k columns."""
        if isinstance(V, np.ndarray):
            return self.matmat(torch.as_tensor(V)).cpu().numpy()
        if V.ndim != 2 or len(V) != self.shape[0]:
            raise FlatlibError(f"a product needs vectors of length {self.shape[0]}, got the shape {tuple(V.shape)}")
        columns = V.detach().to(self.device, self.torch_dtype).T.contiguous()

        def products(built: Any) -> Tensor:
            return torch.stack([self._product(built, column) for column in columns])

        return self._mean(products).T

    def gradient(self) -> Tensor:
        r"""$\nabla L$, shape (n,)."""
        return self._mean(self._chunk_gradient)

    def to_dense(self) -> Tensor:
        """$C$ as an (n, n) matrix, for small n: n products."""
        dense = self.matmat(torch.eye(self.shape[0], dtype=self.torch_dtype, device=self.device))
        require_symmetric(dense, self.noise)
        return dense

    @property
    def noise(self) -> float:
        """Roughly the length that rounding gives to a product which is zero, with a unit vector, some units in the last
        place of the loss. Known once there was a product."""
        return NOISE * torch.finfo(self.torch_dtype).eps * self._loss_size

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """All inputs and targets, as they were given."""
        return self._inputs, self._targets

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The data as (inputs, targets) of at most `chunk_size` examples, in the operator's dtype and on its device."""
        for x, y in zip(self._inputs.split(self.chunk_size), self._targets.split(self.chunk_size), strict=True):
            yield self._cast(x), self._cast(y)

    def _cast(self, data: Tensor) -> Tensor:
        return data.to(self.device, self.torch_dtype if data.is_floating_point() else None)

    def output(self, x: Tensor) -> Tensor:
        """The model's output for inputs as `chunks` gives them, a `FlatlibError` if it fails."""
        return run(self.model, x)

    def _chunk_output(self, x: Tensor) -> Tensor:
        """The same for a product; on the first of several chunks, whether these can be measured one by one."""
        with FastLayers():
            output = self.output(x)
            if not self._is_checked and self.chunk_size < self.examples and isinstance(output, Tensor):
                with torch.no_grad():
                    require_independent(output, self.output(x[len(x) // 3 :]))
        return output

    def _mean(self, evaluate: Callable[[Any], Tensor]) -> Tensor:
        """The mean over all examples of what is evaluated from what each chunk builds."""
        with measurement_mode(self.device):
            if self._kept is None and self.chunk_size == self.examples:
                self._kept = self._build(*next(self.chunks()))
            if self._kept is not None:
                return evaluate(self._kept)
            # What a chunk builds has no name here, so that its graph is freed before the next chunk's is built.
            return sum(len(x) / self.examples * evaluate(self._build(x, y)) for x, y in self.chunks())

    def _checked_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of one chunk: a finite scalar, or a `FlatlibError`."""
        kind = f"outputs of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        with explained(f"the loss fails on {kind} and targets of shape {tuple(target.shape)}"):
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
        """That the loss is an average, on the first chunk; one that is whole need not add up."""
        if self.loss not in LOSSES.values():
            require_mean(self.loss, output, target, value)
        if self.chunk_size < self.examples:
            require_additive(self.loss, output, target, value)
        self._is_checked = True

    def subsampled(self, examples: int, generator: torch.Generator) -> Self:
        """The same of a random subset of the examples: another matrix, near this one and cheaper, of the same model."""
        chosen = torch.randperm(self.examples, generator=generator)[:examples].to(self._inputs.device)
        part = copy.copy(self)
        part._inputs, part._targets = self._inputs[chosen], self._targets[chosen.to(self._targets.device)]
        part.examples, part.chunk_size, part._kept = examples, min(self.chunk_size, examples), None
        return part

    @property
    def product_memory(self) -> int:
        """Bytes that a product takes at most, of which what one chunk needs stays taken if all examples fit it.

        Lanczos keeps one more vector of length n for every product.
        """
        vectors = VECTORS * self.shape[0] * self.torch_dtype.itemsize
        return self.chunk_size * product_bytes(self._kept_bytes) + vectors

    @property
    def bytes_per_example(self) -> int:
        """Bytes that one example's forward pass keeps for the backward pass, parameters aside."""
        return sum(self._kept_bytes)

    @functools.cached_property
    def _kept_bytes(self) -> list[int]:
        with measurement_mode(self.device):
            return kept_bytes(self.model, self._cast(self._inputs[:2]))  # train-mode batch norm refuses one example


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector, detached."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
