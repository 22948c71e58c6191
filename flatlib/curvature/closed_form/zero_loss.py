r"""How flat a small cross-entropy is: a bound on the Hessian, and a network for which it does not help.

For the logits $f$ of one example, their probabilities $p$ and its one-hot label $y$,

$$
H = J^\top \big(\mathrm{diag}\, p - p p^\top\big) J + \sum_c (p_c - y_c)\, \nabla^2 f_c , \qquad J = \nabla_w f .
$$

With $\epsilon = 1 - p_y \le -\log p_y$, the largest eigenvalue of the matrix in the middle is at most its trace, which
is at most $2 \epsilon$, and $\sum_c |p_c - y_c| = 2 \epsilon$. The mean over all examples is therefore bounded by their
mean loss $L$:

$$
\lVert H \rVert_2 \le 2 L \max_i \Big( \lVert J_i \rVert_2^2 + \max_c \lVert \nabla^2 f_c(x_i) \rVert_2 \Big) .
$$

So the sharpness vanishes with the loss wherever the bracket grows more slowly than $1/L$. Granziol 2020, Theorem 1,
has no such condition; its proof bounds the derivatives of an output by the output itself (equation 11), which fails
where the contributions of paths cancel.
"""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev


def cancelling_paths(margin: float) -> nn.Sequential:
    r"""Return a ReLU network with two paths from its input to each of two logits, whose contributions nearly cancel.

    At the input 1 the hidden units are 1, 1 and the logits are $(m, -m) = (b_1 + b_2, -b_1 - b_2)$ with
    $b_1 = e^{2m} + m$ and $b_2 = -e^{2m}$. No weight is below 1 in size. For a large margin m the cross-entropy is
    $e^{-2m}$ and the sharpness $8 e^{2m}$, its product with the squared Jacobian.

    >>> cancelling_paths(3.0)(torch.ones(1, 1, dtype=torch.float64)).detach().round(decimals=9)
    tensor([[ 3., -3.]], dtype=torch.float64)
    """
    large = math.exp(2 * margin)
    first, last = (nn.Linear(*sizes, bias=False, dtype=torch.float64) for sizes in ((1, 2), (2, 2)))
    with torch.no_grad():
        first.weight.fill_(1.0)
        last.weight.copy_(torch.tensor([[large + margin, -large], [-large - margin, large]]))
    return nn.Sequential(first, nn.ReLU(), last)


def hessian_bound(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the bound above on the Hessian's norm, from dense derivatives: for networks of a few weights.

    Args:
        model: From inputs (N, ...) to logits (N, C).
        inputs: (N, ...) examples.
        labels: (N,) class indices.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    shapes = [p.shape for p in weights.values()]
    flat = torch.cat([p.flatten() for p in weights.values()])

    def logits(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(weights, parts, shapes, strict=True)}
        return functional_call(model, named, (inputs,))

    loss = nn.functional.cross_entropy(logits(flat), labels)
    slopes = torch.linalg.matrix_norm(jacrev(logits)(flat), ord=2)
    bends = torch.linalg.matrix_norm(jacrev(jacrev(logits))(flat), ord=2).amax(1)
    return float(2 * loss * (slopes**2 + bends).max())
