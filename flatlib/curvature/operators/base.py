"""Base class of the curvature operators: products with a matrix of an empirical risk, chunk by chunk."""

import copy
import glob
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flatlib.curvature.operators.chunk_memory import VECTORS, product_bytes
from flatlib.curvature.operators.chunk_shares import risk_shares
from flatlib.curvature.operators.empirical_risk import EmpiricalRisk
from flatlib.curvature.operators.examples import Chunk, Examples
from flatlib.curvature.operators.finite_differences import require_derivatives
from flatlib.curvature.operators.frozen_model import FrozenModel
from flatlib.curvature.operators.measurement_mode import others_restored
from flatlib.curvature.operators.symmetry import require_symmetric
from flatlib.errors import FlatlibError

# Rounding error of a zero product, in units in the last place; measured 0.5, for biases under batch norm in train mode.
NOISE = 10.0

Vectors = TypeVar("Vectors", Tensor, np.ndarray)


class CurvatureOperator(EmpiricalRisk):
    r"""Curvature matrix $C$ of $L(\theta) = \frac1N \sum_i \ell(f_\theta(x_i), y_i)$ as a linear operator.

    Operators multiply tensors and NumPy arrays, and ``scipy.sparse.linalg`` accepts them. They work on a frozen state
    of the model: training it further does not change them. The graph that products share is kept between them if all
    examples fit one chunk; otherwise it is rebuilt, chunk by chunk, in every product.

    Before the first product the loss is checked to be a mean over examples, each chunk gets the weight that it has in
    the loss of all examples, and gradient and product are compared with differences of the loss on a few examples
    (``finite_differences``): what cannot be measured right is refused.

    Args:
        model: Network that maps inputs to outputs, each example independently of the others.
        loss: "cross_entropy", "mse", "squared", or a callable (output, target) -> scalar that averages over examples,
            or over what counts in them. One of three arguments gets sample weights as well; one whose first argument is
            called ``model`` is called with (model, batch).
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

    _graph: Any = None  # of the one chunk, if all examples are one

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
        self.check_derivatives(products=True)
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

    @property
    def shares(self) -> list[float]:
        if self._shares is None:
            with others_restored(), self.measuring():
                found = risk_shares(self)
            self.check_derivatives(products=False)
            self._shares = found  # last, so that what is refused once is refused again
        return self._shares

    def check_derivatives(self, products: bool) -> None:
        """Compare derivatives with differences of the loss, once."""
        needed = {"gradient", "product"} if products else {"gradient"}
        if not needed <= self._compared:
            with others_restored(), self.measuring():
                require_derivatives(self, products)
            self._compared = self._compared | needed

    def _take(self, examples: Examples) -> None:
        super()._take(examples)
        self.release()

    def release(self) -> None:
        """Drop the graph that products share; the next one builds it again."""
        self._graph = None

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

    def point(self) -> float:
        self._graph = None
        with self.measuring():
            self._graph = self._build(*self.chunks())
            return float(self._graph.loss)

    def point_gradient(self) -> Tensor:
        with self.measuring():
            return self._chunk_gradient(self._graph)

    def difference_product(self, v: Tensor) -> Tensor | None:
        with self.measuring():
            return self._product(self._graph, v)

    @property
    def product_memory(self) -> int:
        """Upper bound of a product's memory in bytes; Lanczos adds one vector of length n per product."""
        vectors = VECTORS * self.shape[0] * self.torch_dtype.itemsize
        return self.chunk_size * product_bytes(self._kept_bytes) + vectors


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate all entries to one detached vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
