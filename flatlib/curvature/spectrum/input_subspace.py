r"""The row space of few inputs: all that a first linear layer, and with it the Hessian, sees of them.

With $X = LQ$, rows of $Q$ orthonormal, a first layer's output is $X W^\top = L (W Q^\top)^\top$. Directions of $W$ that
are orthogonal to the rows of $Q$ change nothing, so curvature matrices vanish there; on the others they are those of
the same network with the weight $W Q^\top$ on the inputs $L$. With 1000 images of 3072 numbers a product of an MLP
takes less than half the time. Its eigenvalues other than zero are the same.
"""

import copy
import glob
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.frozen_model import measurement_mode
from flatlib.errors import FlatlibError

PRODUCTS = 12
"""The factorisation must pay for itself within so many products; a search on an MLP needs 8 to 30."""
COST_OF_QR = 2
"""How many times longer an operation of the factorisation takes than one of a product; about that on two CPUs."""
ROUNDING = 1e3
"""Units in the last place by which the outputs of the narrowed network may differ; 20 were seen."""


@dataclass(frozen=True)
class ReducedOperator:
    """The operator on the row space, and the way there and back.

    Attributes
    ----------
    operator: of the narrowed network, (m, m).
    """

    operator: CurvatureOperator
    _sizes: list[int]
    _block: int | None
    _weight: tuple[int, int]
    _factors: tuple[Tensor, Tensor]

    def into(self, vector: Tensor) -> Tensor:
        """The part of a vector (n,) that lies in the row space, (m,)."""
        pieces = list(vector.detach().to(self.operator.device, self.operator.torch_dtype).split(self._sizes))
        if self._block is not None:
            rows = self.operator.examples
            pieces[self._block] = _times(pieces[self._block].view(self._weight), self._factors)[:, :rows].reshape(-1)
        return torch.cat(pieces)

    def out_of(self, vectors: Tensor) -> Tensor:
        """Columns (m, k) as vectors of all parameters, (n, k), of the same lengths and angles."""
        if self._block is None:
            return vectors
        outputs, inputs = self._weight
        pieces = list(vectors.split([p.numel() for p in self.operator.parameters.values()]))
        narrow = pieces[self._block].T.reshape(-1, self.operator.examples)
        wide = nn.functional.pad(narrow, (0, inputs - self.operator.examples))
        back = _times(wide, self._factors, transpose=True)
        pieces[self._block] = back.reshape(-1, outputs * inputs).T
        return torch.cat(pieces)


def reduced_operator(operator: CurvatureOperator) -> ReducedOperator | None:
    """The operator on the row space of its inputs, where that saves time: on a CPU, for a model whose inputs go to one
    `nn.Linear` only and are fewer than they have numbers. None otherwise; the outputs decide whether it is so."""
    if not isinstance(operator, CurvatureOperator) or operator.device.type != "cpu":
        return None
    inputs = operator.data[0].flatten(1) if operator.data[0].ndim > 1 else operator.data[0].unsqueeze(1)
    if not inputs.is_floating_point():
        return None
    found = [
        (name, module)
        for name, module in operator.model.named_modules()
        if type(module) is nn.Linear and module.in_features == inputs.shape[1] and "weight" in module._parameters
    ]
    if not found or not _is_worth_it(len(inputs), *reversed(found[0][1].weight.shape)):
        return None
    name, layer = found[0]
    with measurement_mode(operator.device), torch.no_grad():
        factors = torch.geqrf(inputs.to(operator.torch_dtype).T)
        model = copy.deepcopy(operator.model)
        weight = _times(layer.weight.detach(), factors)[:, : len(inputs)].contiguous()
        model.get_submodule(name).weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        rows = factors[0][: len(inputs)].triu().T.contiguous()
    try:
        narrow = type(operator)(
            model,
            operator.loss,
            (rows, operator.data[1]),
            batch_norm=operator.batch_norm,
            chunk_size=operator.chunk_size,
            parameters=[glob.escape(parameter) for parameter in operator.parameters],
        )
        if not _agree(operator, narrow):
            return None
    except FlatlibError:
        return None
    weight_name = f"{name}.weight".lstrip(".")
    names = list(operator.parameters)
    block = names.index(weight_name) if weight_name in names else None
    sizes = [p.numel() for p in operator.parameters.values()]
    return ReducedOperator(narrow, sizes, block, tuple(layer.weight.shape), factors)


def _is_worth_it(examples: int, inputs: int, outputs: int) -> bool:
    r"""Whether the factorisation, $2N^2d$ operations, and the weight's projection, $4Ndh$, are made up for by products
    that each save $4N(d - N)h$."""
    factorisation = COST_OF_QR * 2 * examples * inputs * (examples + 2 * outputs)
    return examples < inputs and factorisation <= PRODUCTS * 4 * examples * (inputs - examples) * outputs


def _agree(operator: CurvatureOperator, narrow: CurvatureOperator) -> bool:
    """Whether the outputs are the same for all examples: they are not where inputs go elsewhere, too, or are changed on
    their way to the layer."""
    allowed = ROUNDING * torch.finfo(operator.torch_dtype).eps
    with measurement_mode(operator.device), torch.no_grad():
        for (wide, _), (rows, _) in zip(operator.chunks(), narrow.chunks(), strict=True):
            one, other = operator.output(wide), narrow.output(rows)
            if not isinstance(one, Tensor) or one.shape != other.shape:
                return False
            if not (one - other).norm() <= allowed * one.norm():
                return False
    return True


def _times(weight: Tensor, factors: tuple[Tensor, Tensor], transpose: bool = False) -> Tensor:
    """The rows of a weight times the whole orthogonal matrix, or its transpose."""
    return torch.ormqr(*factors, weight, left=False, transpose=transpose)
