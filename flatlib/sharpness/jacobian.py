"""Spectral norms of the input-output Jacobian, the flatness in input space of MacDonald et al. 2023."""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlib.curvature.operators.forward import forward_logits
from flatlib.curvature.operators.frozen_model import FrozenModel, set_modes
from flatlib.errors import FlatlibError

EXPONENT = 24  # largest power of ten, up or down, of squares in single precision; rounding stays below 1e-7 of a norm


def jacobian_norm(model: nn.Module, x: Tensor, *, softmax: bool = False, chunk_size: int = 100) -> Tensor:
    r"""Compute the spectral norm $\|\partial f(x_i) / \partial x_i\|_2$ for every sample, exactly, in evaluation mode.

    $C$ backward passes give all rows $J_c$ of a whole chunk; the norm is the root of the largest eigenvalue of the
    $C \times C$ Gram matrix $J J^\top$. Where the inputs enter through one linear layer with weights $W$ alone, as in
    an MLP, the passes end at its outputs: their rows $\Delta$ give $J J^\top = \Delta (W W^\top) \Delta^\top$.
    The softmaxed model's Jacobian is $(\mathrm{diag}(p) - p p^\top) J$; MacDonald et al. 2023 take its maximum over
    training samples. The norms, (N,) float64 on the model's device, are in outputs per unit of input.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> jacobian_norm(model, torch.eye(2)).tolist()
    [3.0, 3.0]

    Args:
        model: Maps (N, ...) to (N, C), one sample independent of the others; left as it was.
        x: Inputs, shape (N, ...); convolutions on a CPU are faster with images in ``torch.channels_last``.
        softmax: Measure the probabilities instead of the outputs.
        chunk_size: Samples per pass; 100 was faster than 1000 on a CPU.

    Raises:
        FlatlibError: If x is empty or of integers, the outputs are not (N, C) or not finite, or chunk_size is below 1.
    """
    if chunk_size < 1:
        raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of samples")
    frozen, first = _frozen(model, x)
    with frozen.measuring():
        layer = _only_entrance(frozen, x[:2].detach().to(first))
        metric = None if layer is None else layer.weight.double() @ layer.weight.double().T
        norms = []
        for chunk in x.detach().split(chunk_size):
            slopes, scale = _slopes(frozen, chunk.to(first), layer, softmax)
            norms.append(scale * _norms(slopes, metric))
        return torch.cat(norms)


class JacobianNorms(NamedTuple):
    """Spectral norms of the Jacobians of the outputs and of their softmax, each (N,) float64.

    Attributes:
        outputs: As `jacobian_norm` computes them.
        probabilities: The same with ``softmax=True``.
    """

    outputs: Tensor
    probabilities: Tensor


def jacobian_norms(model: nn.Module, x: Tensor, *, chunk_size: int = 100) -> JacobianNorms:
    r"""Compute `jacobian_norm` of the outputs and of the probabilities from the same $C$ backward passes.

    The rows of $(\mathrm{diag}(p) - p p^\top) J$ are sums of those of J, so that both cost little more than one.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), model.bias.data.zero_()
    >>> [norms.item() for norms in jacobian_norms(model, torch.zeros(1, 2))]  # p = 1/2: 1/4 (1, -1)^T (3, -1)
    [3.0, 1.118033988749895]

    Args:
        model: Maps (N, ...) to (N, C), one sample independent of the others; left as it was.
        x: Inputs, shape (N, ...).
        chunk_size: Samples per pass.

    Raises:
        FlatlibError: As `jacobian_norm`.
    """
    if chunk_size < 1:
        raise FlatlibError(f"chunk_size={chunk_size} is not a positive number of samples")
    frozen, first = _frozen(model, x)
    found = []
    with frozen.measuring():
        layer = _only_entrance(frozen, x[:2].detach().to(first))
        metric = None if layer is None else layer.weight.double() @ layer.weight.double().T
        for chunk in x.detach().split(chunk_size):
            slopes, _ = _slopes(frozen, chunk.to(first), layer, False)
            weights, scale = _softmax_derivative(forward_logits(frozen, chunk.to(first)).detach())
            rows = torch.stack(slopes, 1).flatten(2)
            mixed = (weights.to(rows) @ rows).unbind(1)
            found.append(torch.stack([_norms(slopes, metric), scale * _norms(list(mixed), metric)]))
    return JacobianNorms(*torch.cat(found, 1))


class Stretch(NamedTuple):
    """Direction in which each sample's output moves fastest: t along ``inputs`` moves it by t ``norms`` ``outputs``.

    Attributes:
        norms: (N,) float64, the largest singular value of each Jacobian.
        inputs: (N, ...) float64, its right-singular vector, of length 1, shaped like the sample.
        outputs: (N, C) float64, its left-singular vector.
    """

    norms: Tensor
    inputs: Tensor
    outputs: Tensor


def most_stretched(model: nn.Module, x: Tensor, *, softmax: bool = False) -> Stretch:
    r"""Compute the top singular vectors of $\partial f(x_i) / \partial x_i$ for every sample, in evaluation mode.

    $C$ backward passes give the Jacobian, (C, D), whose singular value decomposition is taken. The sign of a pair is
    arbitrary: here the output that changes most rises along ``inputs``. `jacobian_norm` needs less memory.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> most_stretched(model, torch.ones(1, 2)).inputs.round(decimals=6).abs().tolist()
    [[1.0, 0.0]]

    Args:
        model: Maps (N, ...) to (N, C), one sample independent of the others; left as it was.
        x: Inputs, shape (N, ...).
        softmax: Take the probabilities instead of the outputs.

    Raises:
        FlatlibError: If x is empty or of integers, or the outputs are not (N, C) or not finite.
    """
    frozen, first = _frozen(model, x)
    with frozen.measuring():
        slopes, scale = _slopes(frozen, x.detach().to(first), None, softmax)
        rows = scale[:, None, None] * torch.stack(slopes, 1).flatten(2)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    outputs, inputs = left[:, :, 0], right[:, 0]
    signs = outputs.gather(1, outputs.abs().argmax(1, keepdim=True)).sign()
    return Stretch(values[:, 0], (signs * inputs).reshape(x.shape), signs * outputs)


def _frozen(model: nn.Module, x: Tensor) -> tuple[FrozenModel, Tensor]:
    """Return a copy in evaluation mode and its first parameter, for inputs that have a Jacobian."""
    if x.ndim == 0 or len(x) == 0 or not x.is_floating_point():
        raise FlatlibError(f"a Jacobian needs floating-point inputs (N, ...), got {x.dtype} of shape {tuple(x.shape)}")
    frozen = FrozenModel(model)
    set_modes(frozen.module.requires_grad_(False), "eval")
    return frozen, next(frozen.module.parameters())


def _slopes(model: FrozenModel, x: Tensor, layer: nn.Linear | None, softmax: bool) -> tuple[list[Tensor], Tensor]:
    """Return each output's derivatives in x, or in the outputs of the layer, C times (N, ...), and their scale (N,).

    The softmaxed outputs' are scaled up to the size of the outputs', in float64, so that confident ones do not vanish.
    """
    if layer is None:
        entrance = x.clone().requires_grad_()
        output = forward_logits(model, entrance.clone())  # which it may change
    else:
        output, (entrance,) = _cut(model, x, [layer])
    scale = torch.ones(len(output), dtype=torch.float64, device=output.device)
    if not output.requires_grad:
        return [torch.zeros_like(entrance)] * output.shape[1], scale
    eye = torch.eye(output.shape[1], dtype=torch.float64, device=output.device)
    weights = eye.expand(len(output), -1, -1)
    if softmax:
        weights, scale = _softmax_derivative(output.detach())
    options = {"retain_graph": True, "materialize_grads": True}
    return [torch.autograd.grad(output, entrance, w, **options)[0] for w in weights.to(output).unbind(1)], scale


def _softmax_derivative(output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives (N, C, C) of the softmax in float64, their largest entries at 1, and these (N,)."""
    p = output.double().softmax(1)
    others = 1 - torch.eye(output.shape[1], dtype=p.dtype, device=p.device)
    # Sums 1 - p_c, as p_c rounds to 1 if confident.
    weights = torch.diag_embed(p * (p @ others)) - p.unsqueeze(2) * p.unsqueeze(1) * others
    scale = weights.abs().amax((1, 2))
    return weights / scale.clamp_min(torch.finfo(scale.dtype).tiny)[:, None, None], scale


def _norms(slopes: list[Tensor], metric: Tensor | None) -> Tensor:
    """Return the largest singular values (N,) of the Jacobians with these rows."""
    return torch.linalg.eigvalsh(_gram(slopes, metric))[:, -1].clamp_min(0).sqrt()


def _gram(slopes: list[Tensor], metric: Tensor | None) -> Tensor:
    """Return the Gram matrices (N, C, C) of the rows in float64; single precision multiplies them where it suffices."""
    order = sorted(range(1, slopes[0].ndim), key=slopes[0].stride, reverse=True)  # as they lie in memory
    rows = torch.stack([slope.permute(0, *order) for slope in slopes], 1).flatten(2)
    if metric is None:
        gram = (rows @ rows.mT).double()
        if (gram.diagonal(dim1=1, dim2=2).amax(1).log10().abs() < EXPONENT).all():
            return gram
    rows = rows.double()
    return (rows if metric is None else rows @ metric) @ rows.mT


def _only_entrance(model: FrozenModel, x: Tensor) -> nn.Linear | None:
    """Return the linear layer through which alone the inputs reach the outputs, if there is one."""
    x = x.clone().requires_grad_()
    seen: list[nn.Linear] = []

    def see(layer: nn.Linear, arguments: tuple[Tensor, ...]) -> None:
        a = arguments[0]
        if a.data_ptr() == x.data_ptr() and a.shape == (len(x), x[0].numel()) and a.is_contiguous():
            seen.append(layer)

    with ExitStack() as hooks:
        for layer in (module for module in model.module.modules() if type(module) is nn.Linear):
            hooks.enter_context(layer.register_forward_pre_hook(see))
        forward_logits(model, x)
    if len(seen) != 1:
        return None
    output, cuts = _cut(model, x, seen)
    around = torch.autograd.grad(output.sum(), [x, *cuts], allow_unused=True)[0] if output.requires_grad else None
    return seen[0] if len(cuts) == 1 and around is None else None


def _cut(model: FrozenModel, x: Tensor, layers: list[nn.Linear]) -> tuple[Tensor, list[Tensor]]:
    """Return the model's outputs, and those of the layers, which no longer depend on x."""
    cuts: list[Tensor] = []

    def cut(layer: nn.Linear, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        cuts.append(output.detach().requires_grad_())
        return cuts[-1]

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(cut))
        return forward_logits(model, x), cuts
