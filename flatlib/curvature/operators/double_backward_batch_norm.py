"""Double backward of batch norm, built on the kernels of its first derivatives.

PyTorch differentiates batch norm's backward pass through two dozen elementwise passes. Without them, and with
convolution's double backward, a Hessian-vector product of VGG-11 takes 0.4 of the time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    """Compute ``F.batch_norm``, or call it where this one does not apply: a cumulative mean, no statistics at all."""
    if (running_mean is None and not training) or momentum is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if training and input.numel() == input.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
    return BatchNorm.apply(input, weight, bias, running_mean, running_var, training, momentum, eps)


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
        if torch.is_grad_enabled():
            return *_differentiable_backward(ctx, (a, to_weight, to_bias)), *[None] * 4
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


def _differentiable_backward(ctx: Any, weights: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Return the gradients of g, x and weight with a graph, for third derivatives: those of mean and scale included."""
    g, x, weight, mean, scale, _, _ = ctx.saved_tensors
    # Views, so that a path from one to another through their own graphs does not count.
    g, x, weight = g.view_as(g), x.view_as(x), None if weight is None else weight.view_as(weight)
    m, column, others = x.numel() // x.shape[1], (1, -1, *[1] * (x.ndim - 2)), [d for d in range(x.ndim) if d != 1]
    if ctx.training:
        variance, mean = torch.var_mean(x, others, correction=0)
        scale = (variance + ctx.eps).rsqrt()
    normal = (x - mean.view(column)) * scale.view(column)
    s2, s1 = (g * normal).sum(others), g.sum(others)
    centred = g - (s1.view(column) + normal * s2.view(column)) / m if ctx.training else g
    outputs = centred * (scale if weight is None else weight * scale).view(column), s2, s1
    used = [i for i, u in enumerate(weights) if u is not None]
    needed = ctx.needs_input_grad[:3]
    inputs = [tensor for tensor, is_needed in zip((g, x, weight), needed, strict=True) if is_needed]
    ours, theirs = [outputs[i] for i in used], [weights[i] for i in used]
    found = iter(torch.autograd.grad(ours, inputs, theirs, create_graph=True, allow_unused=True))
    return [next(found) if is_needed else None for is_needed in needed]
