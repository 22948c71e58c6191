"""Double backward of convolution, batch norm and weight norm: the first two faster than PyTorch's, the third corrected.

PyTorch differentiates a convolution's backward pass through convolutions with kernels as large as the image, and batch
norm's through two dozen elementwise passes. With double backward passes built on the kernels of the first derivatives,
a Hessian-vector product of VGG-11 takes 0.7 of the time, and 0.4 with batch norm in train mode.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class FastDoubleBackward(TorchFunctionMode):
    """Context in which convolutions, batch norms and weight norms have the double backward passes of this module.

    PyTorch's own are used where these do not apply: padding by name, a single image without a batch dimension.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function in DIMENSIONS:
            return _convolution(function, *arguments, **named)
        if function is F.batch_norm:
            return _batch_norm(*arguments, **named)
        if function is torch._weight_norm:
            return _weight_norm(*arguments, **named)
        return function(*arguments, **named)


def _convolution(function, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    dimensions = DIMENSIONS[function]
    if isinstance(padding, str) or input.ndim != dimensions + 2:
        return function(input, weight, bias, stride, padding, dilation, groups)
    sides = [[side] * dimensions if isinstance(side, int) else list(side) for side in (stride, padding, dilation)]
    return Convolution.apply(input, weight, bias, (*sides, False, [0] * dimensions, groups))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""Return $g v / \|v\|$ (Salimans and Kingma 2016, arXiv:1602.07868).

    The second derivative of PyTorch's fused kernel is wrong: it made the Hessian of a small net wrong by 30 %.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    if (running_mean is None and not training) or momentum is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if training and input.numel() == input.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    return BatchNorm.apply(input, weight, bias, running_mean, running_var, training, momentum, eps)


class Convolution(Function):
    """$f = w * x + b$; ``options`` are stride, padding, dilation, transposed, output padding and groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.options = options
        ctx.has_bias = b is not None
        return aten.convolution(x, w, b, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        needed = [*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2]]
        return *ConvolutionBackward.apply(grad, x, w, ctx.options, needed), None


class ConvolutionBackward(Function):
    r"""$(w^\top * g,\ x \star g,\ \sum g)$, bilinear in (g, w) and in (g, x); differentiable once more."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, options: tuple, needed: list[bool]) -> tuple:
        ctx.save_for_backward(g, x, w)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return aten.convolution_backward(g, x, w, [len(w)], *options, needed)

    @staticmethod
    def backward(ctx: Any, to_x: Tensor | None, to_w: Tensor | None, to_b: Tensor | None) -> tuple:
        g, x, w = ctx.saved_tensors
        of_g = of_x = of_w = None
        if ctx.needs_input_grad[0]:
            terms = [aten.convolution(a, b, None, *ctx.options) for a, b in ((to_x, w), (x, to_w)) if _both(a, b)]
            if to_b is not None:
                terms.append(to_b.view(-1, *[1] * (g.ndim - 2)).expand_as(g))
            of_g = _sum(terms)
        if ctx.needs_input_grad[1] and to_w is not None:
            of_x = aten.convolution_backward(g, x, to_w, None, *ctx.options, [True, False, False])[0]
        if ctx.needs_input_grad[2] and to_x is not None:
            of_w = aten.convolution_backward(g, to_x, w, None, *ctx.options, [False, True, False])[1]
        return of_g, of_x, of_w, None, None


def _both(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None


def _sum(terms: list[Tensor]) -> Tensor | None:
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total.add_(term) if total is terms[0] and not _is_expanded(total) else total + term
    return total


def _is_expanded(tensor: Tensor) -> bool:
    return 0 in tensor.stride()


class BatchNorm(Function):
    r"""$f = \gamma \hat x + \beta$ with $\hat x = (x - \mu) r$, $r = (\sigma^2 + \epsilon)^{-1/2}$, per channel.

    In training $\mu$ and $\sigma^2$ are those of the batch, m values per channel; the running statistics are updated
    as in PyTorch.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, running_mean, running_var, training, momentum, eps) -> Tensor:
        output, mean, scale = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, training, momentum, eps
        )
        if not training:
            mean, scale = running_mean.clone(), (running_var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.training, ctx.eps, ctx.has_bias = training, eps, bias is not None
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, weight, mean, scale = ctx.saved_tensors
        of_x, of_weight, of_bias = BatchNormBackward.apply(grad, x, weight, mean, scale, ctx.training, ctx.eps)
        return of_x, None if weight is None else of_weight, of_bias if ctx.has_bias else None, *[None] * 5


class BatchNormBackward(Function):
    r"""$\big(\gamma r (g - s_1 / m - \hat x s_2 / m),\ s_2,\ s_1\big)$, $s_1 = \sum g$, $s_2 = \sum g \hat x$, in
    training; $(\gamma r g, s_2, s_1)$ with running statistics. Differentiable once more."""

    @staticmethod
    def forward(ctx: Any, g, x, weight, mean, scale, training, eps) -> tuple:
        of_x, s2, s1 = _native_backward(g, x, weight, mean, scale, training, eps)
        ctx.save_for_backward(g, x, weight, mean, scale, s1, s2)
        ctx.training, ctx.eps = training, eps
        ctx.set_materialize_grads(False)
        return of_x, s2, s1

    @staticmethod
    def backward(ctx: Any, a: Tensor | None, to_weight: Tensor | None, to_bias: Tensor | None) -> tuple:
        r"""Differentiate $\gamma r (A_3 - A_1 s_1 / m - A_2 s_2 / m) + b_\gamma s_2 + b_\beta s_1$ (in training), where
        $A_1 = \sum a$, $A_2 = \sum a \hat x$, $A_3 = \sum a g$, b are the other two gradients, and r depends on x."""
        g, x, weight, mean, scale, s1, s2 = ctx.saved_tensors
        m, column = x.numel() // x.shape[1], (1, -1, *[1] * (x.ndim - 2))
        gamma_r = scale if weight is None else weight * scale
        normal = (x - mean.view(column)).mul_(scale.view(column))
        b_gamma = torch.zeros_like(s2) if to_weight is None else to_weight
        if a is None:
            a1 = a2 = a3 = torch.zeros_like(s1)
            of_g = torch.zeros_like(g)
        else:
            of_g, a2, a1 = _native_backward(a, x, weight, mean, scale, ctx.training, ctx.eps)
            a3 = (a * g).flatten(2).sum(-1).sum(0) if x.ndim > 2 else (a * g).sum(0)
        of_g.addcmul_(normal, b_gamma.view(column))
        if to_bias is not None:
            of_g.add_(to_bias.view(column))
        if not ctx.training:
            of_weight = None if weight is None else scale * a3
            return of_g, g * (b_gamma * scale).view(column), of_weight, *[None] * 4
        bracket = a3 - (a1 * s1 + a2 * s2) / m
        # h, the derivative in the normalised x at a fixed r, is from_a * a + from_g * g
        from_a, from_g = -gamma_r * s2 / m, b_gamma - gamma_r * a2 / m
        sum_h, sum_h_normal = from_a * a1 + from_g * s1, from_a * a2 + from_g * s2
        through_r = gamma_r * bracket / m
        of_x = normal.mul_((-scale * (sum_h_normal / m + through_r)).view(column))
        of_x.addcmul_(g, (scale * from_g).view(column)).sub_((scale * sum_h / m).view(column))
        if a is not None:
            of_x.addcmul_(a, (scale * from_a).view(column))
        return of_g, of_x, None if weight is None else scale * bracket, *[None] * 4


def _native_backward(g: Tensor, x: Tensor, weight, mean: Tensor, scale: Tensor, training: bool, eps: float) -> tuple:
    """Return the gradients of input, weight and bias; with running statistics from the stored scale."""
    if training:
        weight = x.new_ones(x.shape[1]) if weight is None else weight  # CUDA's kernels need one
        return aten.native_batch_norm_backward(g, x, weight, None, None, mean, scale, True, eps, [True] * 3)
    column = (1, -1, *[1] * (x.ndim - 2))
    gamma_r = scale if weight is None else weight * scale
    sums = [t.flatten(2).sum(-1).sum(0) if x.ndim > 2 else t.sum(0) for t in (g * x, g)]
    return g * gamma_r.view(column), scale * (sums[0] - mean * sums[1]), sums[1]
