r"""Reduction of a first linear layer to the subspace that its inputs span.

With inputs $X = LQ$, rows of $Q$ orthonormal, a first layer's output is $X W^\top = L (W Q^\top)^\top$. Directions of
$W$ orthogonal to the rows of $Q$ change nothing, so curvature matrices vanish there; on the others they are those of
the network with the weight $W Q^\top$ on the inputs $L$. Eigenvalues other than zero are the same. With 1000 images of
3072 numbers a product of an MLP takes less than half the time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import SymmetricOperator
from flatlib.errors import FlatlibError

PRODUCTS = 12  # within which the factorization must pay for itself; a search on an MLP needs 8 to 30
COST_OF_QR = 2  # time of an operation of the factorization over one of a product; measured on two CPUs
ROUNDING = 1e3  # units in the last place by which the reduced network's outputs may differ; measured 20


@dataclass(frozen=True)
class ReducedOperator:
    """Operator of the reduced network, (m, m), with the maps between its space and the full one."""

    operator: CurvatureOperator
    _sizes: list[int]
    _block: int | None
    _weight: tuple[int, int]
    _factors: tuple[Tensor, Tensor]

    def project(self, vector: Tensor) -> Tensor:
        """Return the part of a vector (n,) that lies in the subspace, (m,)."""
        pieces = list(vector.detach().to(self.operator.device, self.operator.torch_dtype).split(self._sizes))
        if self._block is not None:
            rows = self.operator.examples
            pieces[self._block] = _times(pieces[self._block].view(self._weight), self._factors)[:, :rows].reshape(-1)
        return torch.cat(pieces)

    def lift(self, vectors: Tensor) -> Tensor:
        """Return columns (m, k) as vectors of all parameters, (n, k), of the same norms and angles."""
        if self._block is None:
            return vectors
        outputs, inputs = self._weight
        pieces = list(vectors.split([p.numel() for p in self.operator.parameters.values()]))
        small = pieces[self._block].T.reshape(-1, self.operator.examples)
        wide = nn.functional.pad(small, (0, inputs - self.operator.examples))
        back = _times(wide, self._factors, transpose=True)
        pieces[self._block] = back.reshape(-1, outputs * inputs).T
        return torch.cat(pieces)


def reduced_operator(operator: SymmetricOperator) -> ReducedOperator | None:
    """Return the operator reduced to the subspace of its inputs, or None where that saves no time or changes outputs.

    It saves time on a CPU for a model whose inputs go to one ``nn.Linear`` only and are fewer than their dimension.
    """
    if not isinstance(operator, CurvatureOperator) or operator.device.type != "cpu":
        return None
    if operator.data is None or not operator.data[0].is_floating_point():
        return None
    inputs = operator.data[0].reshape(operator.examples, -1)
    linear = ((name, m) for name, m in operator.model.named_modules() if type(m) is nn.Linear)
    fitting = ((name, m) for name, m in linear if m.in_features == inputs.shape[1] and "weight" in m._parameters)
    name, layer = next(fitting, ("", None))
    if layer is None or not _saves_time(len(inputs), layer.in_features, layer.out_features):
        return None
    if operator.loss_uses_parameters:
        return None
    with operator.measuring(), torch.no_grad():
        factors = torch.geqrf(inputs.to(operator.device, operator.torch_dtype).T)
        weight = _times(layer.weight.detach(), factors)[:, : len(inputs)].contiguous()
        rows = factors[0][: len(inputs)].triu().T.contiguous()
    reduced = operator.replaced(layer, weight, rows)
    try:
        if not _agree(operator, reduced):
            return None
    except FlatlibError:
        return None
    weight_name = f"{name}.weight".lstrip(".")
    names = list(operator.parameters)
    block = names.index(weight_name) if weight_name in names else None
    sizes = [p.numel() for p in operator.parameters.values()]
    return ReducedOperator(reduced, sizes, block, (layer.out_features, layer.in_features), factors)


def _saves_time(examples: int, inputs: int, outputs: int) -> bool:
    r"""Return whether products, saving $4N(d - N)h$ operations each, outweigh $2N^2d + 4Ndh$ for the factorization."""
    factorization = COST_OF_QR * 2 * examples * inputs * (examples + 2 * outputs)
    return examples < inputs and factorization <= PRODUCTS * 4 * examples * (inputs - examples) * outputs


def _agree(operator: CurvatureOperator, reduced: CurvatureOperator) -> bool:
    """Return whether all outputs agree: not so where inputs also go elsewhere or change on their way to the layer."""
    allowed = ROUNDING * torch.finfo(operator.torch_dtype).eps
    with operator.measuring(), torch.no_grad():
        wide = [operator.output(chunk.inputs) for chunk in operator.chunks()]
    with reduced.measuring(), torch.no_grad():
        narrow = (reduced.output(chunk.inputs) for chunk in reduced.chunks())
        return all(
            isinstance(one, Tensor) and one.shape == other.shape and bool((one - other).norm() <= allowed * one.norm())
            for one, other in zip(wide, narrow, strict=True)
        )


def _times(weight: Tensor, factors: tuple[Tensor, Tensor], transpose: bool = False) -> Tensor:
    """Multiply the rows of a weight by the whole orthogonal matrix, or its transpose."""
    return torch.ormqr(*factors, weight, left=False, transpose=transpose)
