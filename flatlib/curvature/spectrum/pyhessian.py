"""Wrapper of PyHessian (Yao et al. 2020): its products and power iteration, accepted by the true residual."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyhessian
import torch
from pyhessian.utils import group_add, group_product, orthnormal
from torch import Tensor, nn

from flatlib.curvature.operators.base import flatten
from flatlib.curvature.operators.frozen_model import set_modes
from flatlib.curvature.operators.hessian import HessianOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.lanczos import ROUNDING
from flatlib.curvature.spectrum.lanczos_search import SIGNS, EigenvalueRequest, Eigenvalues, initial_vector
from flatlib.errors import FlatlibError

MAX_PRODUCTS = 1000  # default limit; power iteration needs 20 to 300 products for the largest eigenvalue at tol=1e-3
PATIENCE = 20  # products between the residuals that STALLED compares
STALLED = 0.9  # shift an unshifted iteration whose residual fell by less than this factor; tuned
WRONG_END = 0.1  # relative residual below which the dominant eigenvalue's sign is trusted; tuned
DEFLATION = 0.1  # part of the tolerance for vectors that later ones are made orthogonal to, whose error they inherit

Vector = list[Tensor]


class Pair(NamedTuple):
    """Approximate eigenpair of the scaled Hessian."""

    value: float
    residual: float  # ||Hv - value v|| for the unit vector v
    vector: Vector
    is_requested_end: bool  # whether the iteration was heading for the requested end of the spectrum


class PyHessianProducts:
    r"""PyHessian's Hessian-vector products of a scaled loss, on the operator's copy of the model and its chunks.

    - The scale makes $\|H\| \gtrsim 1$, so that PyHessian's guards of 1e-6 do not swallow small Hessians.
    - Gradients are cleared before and after: its ``backward`` adds to them, and leaves some that hold the graph.
    - Its ``eval()`` is undone for train-mode batch norm; the caller's model is never touched.
    - $0 \cdot \|\theta\|^2$ is added to the loss, so that parameters without a second derivative have a zero one.
    """

    def __init__(self, operator: HessianOperator):
        self.used = 0
        self.scale: float | None = None
        self.largest = 0.0  # largest ||Hv|| of a unit vector so far, a lower bound of the scaled ||H||
        self._before: tuple[Vector, Vector] | None = None  # the last vector and its product
        self._operator = operator
        self._parameters = list(operator.parameters.values())
        operator.check_derivatives(products=True)
        chunks = list(operator.chunks())
        if operator.data is None or any(chunk.share != chunk.size / operator.examples for chunk in chunks):
            raise FlatlibError('engine="pyhessian" needs pairs of tensors that count alike: use engine="lanczos"')
        pairs = [(chunk.inputs, chunk.targets) for chunk in chunks]
        self._hessian = pyhessian.hessian(_Called(operator), self._criterion, dataloader=pairs, cuda=False)
        self._hessian.device = operator.device
        set_modes(operator.model, operator.batch_norm)

    @property
    def rounding(self) -> float:
        """Numbers below this are zero to rounding, relative to ||H||."""
        return ROUNDING * torch.finfo(self._operator.torch_dtype).eps * self.largest

    def __call__(self, v: Vector) -> Vector:
        """Return $Hv$ for a unit vector v, divided by the norm of the first product."""
        self.used += 1
        with self._operator.measuring(), _cleared(self._operator.model):
            _, product = self._hessian.dataloader_hv_product(v)
        largest_entry = max(float(piece.abs().max()) for piece in product)
        if not largest_entry < float("inf"):
            raise FlatlibError("a Hessian-vector product is not finite: the curvature is not defined")
        if self.scale is None and largest_entry > 0:
            product = [piece / largest_entry for piece in product]
            norm = _norm(product)
            product = [piece / norm for piece in product]
            self.scale = 1 / (largest_entry * norm)
        self.largest = max(self.largest, _norm(product))
        if self._before:
            v_before, product_before = self._before
            difference = float(group_product(v_before, product)) - float(group_product(product_before, v))
            require_symmetry(abs(difference), self.largest, (self.scale or 1.0) * self._operator.noise)
        self._before = [piece.clone() for piece in v], [piece.clone() for piece in product]
        return product

    def pieces(self, v: Tensor) -> Vector:
        """Split a flat vector into one new tensor per parameter; PyHessian's utilities work in place."""
        parts = v.split([p.numel() for p in self._parameters])
        return [part.reshape(p.shape).clone() for part, p in zip(parts, self._parameters, strict=True)]

    def _criterion(self, output: Tensor, target: Tensor) -> Tensor:
        zero = sum((p * p).sum() for p in self._parameters) * 0.0
        return (self.scale or 1.0) * self._operator.checked_loss(output, target) + zero


class _Called(nn.Module):
    """The operator's model, called as the operator does."""

    def __init__(self, operator: HessianOperator):
        super().__init__()
        self.model = operator.model
        self.output = operator.twice_differentiable_output

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x)


def pyhessian_eigenvalues(
    operator: HessianOperator, start: Tensor | str | None, generator: torch.Generator, request: EigenvalueRequest
) -> Eigenvalues:
    """Compute the requested eigenvalues by PyHessian's power iteration; see ``top_eigenvalues``."""
    k, ends, tol, max_products, *_ = request
    products = PyHessianProducts(operator)
    limit = max_products or MAX_PRODUCTS

    def random() -> Vector:
        return products.pieces(initial_vector(operator, None, generator))

    pairs: list[Pair] = []
    for later, end in zip(reversed(range(len(ends))), ends, strict=True):
        vector = random() if pairs else products.pieces(initial_vector(operator, start, generator))
        pairs += power_iteration(products, vector, random, k, SIGNS[end], tol, limit - k * later)
    values, residuals = torch.tensor([(pair.value, pair.residual) for pair in pairs], dtype=torch.float64).T
    bound = torch.clamp(tol * values.abs(), min=products.rounding)
    columns = torch.stack([flatten(pair.vector) for pair in pairs], 1)
    scale = products.scale or 1.0
    return Eigenvalues(
        values / scale,
        residuals / scale,
        residuals / scale,
        torch.tensor([SIGNS[end] * math.inf for end in ends], dtype=torch.float64),
        columns / torch.linalg.vector_norm(columns, dim=0),
        products.used,
        bool((residuals <= bound).all()) and all(pair.is_requested_end for pair in pairs),
    )


def power_iteration(
    products: PyHessianProducts, start: Vector, random: Callable[[], Vector], k: int, sign: int, tol: float, limit: int
) -> list[Pair]:
    """Compute the k largest (sign 1) or smallest (sign -1) eigenpairs, each orthogonal to those before it.

    PyHessian's own loop stops when its value changes little, whatever the residual, returns the value that is largest
    in magnitude, and between eigenvalues a and -a stops anywhere. This one stops on the residual only.
    """
    pairs: list[Pair] = []
    for later in reversed(range(k)):
        v = random() if pairs else start
        found = [pair.vector for pair in pairs]
        pairs.append(_iterate(products, v, random, found, sign, DEFLATION * tol if later else tol, limit - later))
    return sorted(pairs, key=lambda pair: -sign * pair.value)


def _iterate(
    products: PyHessianProducts,
    v: Vector,
    random: Callable[[], Vector],
    found: list[Vector],
    sign: int,
    tol: float,
    limit: int,
) -> Pair:
    """Iterate on H, and on H + sign rho I once the other end dominates or the iteration stalls.

    rho, the largest ||Hv|| so far, gives every shifted eigenvalue the requested sign. The very first iteration starts
    unshifted, as the dominant end is not known yet.
    """
    shift = sign * products.largest
    residuals: list[float] = []
    while True:
        v = orthnormal(v, found)
        product = products(v)
        value = float(group_product(product, v) / group_product(v, v))
        residual = _norm([hv - value * piece for hv, piece in zip(product, v, strict=True)])
        residuals.append(residual)
        other_end = shift == 0 and sign * value < 0
        accepted = residual <= max(tol * abs(value), products.rounding) and not other_end
        if accepted or products.used >= limit:
            return Pair(value, residual, v, not other_end)
        stalled = len(residuals) > PATIENCE and residual > STALLED * residuals[-1 - PATIENCE]
        if shift == 0 and (stalled or (other_end and residual < WRONG_END * abs(value))):
            shift = sign * products.largest
            v = random() if other_end else product
        else:
            v = group_add(list(product), v, alpha=shift)


def _norm(v: Vector) -> float:
    return float(group_product(v, v)) ** 0.5


@contextmanager
def _cleared(model: nn.Module) -> Iterator[None]:
    """Clear the model's gradients before and after, and silence PyTorch's warning about them."""
    model.zero_grad()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            yield
    finally:
        model.zero_grad()
