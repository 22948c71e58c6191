"""Functions whose second derivative PyTorch lacks, gets wrong or computes slowly, replaced while a model runs."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from flatlib.curvature.operators.double_backward_batch_norm import batch_norm
from flatlib.curvature.operators.double_backward_convolution import DIMENSIONS, convolution
from flatlib.curvature.operators.double_backward_embedding import embedding, embedding_bag, embedding_of
from flatlib.curvature.operators.double_backward_losses import ctc_loss, multi_margin_loss, multilabel_margin_loss
from flatlib.device import CUDNN, switched


class TwiceDifferentiable(TorchFunctionMode):
    """Context in which the functions of ``REPLACEMENTS`` are composed of others that are differentiable twice.

    While it lasts, PyTorch also leaves out the fused inference kernels of its attention and transformer modules.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        return REPLACEMENTS.get(function, function)(*arguments, **(named or {}))


class FastDoubleBackward(TwiceDifferentiable):
    """Context in which, in addition, convolutions and batch norms have faster double backward passes than PyTorch's.

    PyTorch's own are used inside ``torch.func``'s transforms and forward-mode differentiation.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if not _is_transformed():
            if function in DIMENSIONS:
                return convolution(function, *arguments, **named)
            if function is F.batch_norm:
                return batch_norm(*arguments, **named)
        return super().__torch_function__(function, types, arguments, named)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Run what activation checkpoints contain as if it were not in one.

    A second derivative needs the activations that they forget, and the reentrant kind gives ``torch.autograd.grad`` no
    gradient of the parameters used inside.
    """
    with (
        switched("CheckpointFunction", _NoCheckpoint, torch.utils.checkpoint),
        switched("_checkpoint_hook", nullcontext, torch.utils.checkpoint),
    ):
        yield


class _NoCheckpoint:
    """Stand-in for PyTorch's reentrant checkpoint that only runs the function."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return function(*inputs)


def _without_cudnn(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Compute a function that cuDNN differentiates once with PyTorch's own kernels."""
    with switched("enabled", False, CUDNN):
        return function(*arguments, **named)


def _is_transformed() -> bool:
    """Return whether a transform is active for which a custom ``autograd.Function`` has no rule."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Compute ``F.hardsigmoid``, which PyTorch differentiates once."""
    result = F.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def logcumsumexp(input: Tensor, dim: int, **options: Any) -> Tensor:
    """Compute ``torch.logcumsumexp``.

    PyTorch writes its derivative with the logarithm of the incoming gradient: where that is zero, the next is wrong.
    """
    if input.ndim == 0:
        return input.clone()
    terms = input.movedim(dim, -1).unsqueeze(-2)
    later = torch.ones(2 * terms.shape[-1:], dtype=torch.bool, device=input.device).triu(1)
    return torch.where(later, -torch.inf, terms).logsumexp(-1).movedim(-1, dim)


def linear_cross_entropy(input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Compute ``F.linear_cross_entropy`` in one piece: in chunks its backward pass cannot be differentiated."""
    return F.linear_cross_entropy(input, linear_weight, target, **{**options, "options": None})


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""Return $g v / \|v\|$ (Salimans and Kingma 2016, arXiv:1602.07868).

    The second derivative of PyTorch's fused kernel is wrong: it made the Hessian of a small net wrong by 30 %.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.hardsigmoid: hardsigmoid,
    torch.logcumsumexp: logcumsumexp,
    Tensor.logcumsumexp: logcumsumexp,
    torch._weight_norm: weight_norm,
    F.embedding: embedding,
    torch.embedding: embedding_of,
    F.embedding_bag: embedding_bag,
    F.multi_margin_loss: multi_margin_loss,
    F.multilabel_margin_loss: multilabel_margin_loss,
    F.ctc_loss: ctc_loss,
}
CUDNN_FUNCTIONS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, F.grid_sample, F.affine_grid)
REPLACEMENTS |= {function: functools.partial(_without_cudnn, function) for function in CUDNN_FUNCTIONS}
if hasattr(F, "linear_cross_entropy"):  # not in torch 2.11
    REPLACEMENTS[F.linear_cross_entropy] = linear_cross_entropy
