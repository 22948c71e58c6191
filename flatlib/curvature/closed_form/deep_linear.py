r"""The smallest deep network whose Hessian is known: a chain of weights with the exponential loss.

Granziol 2020 ("Flatness is a false friend", section 2) argues with it that a small loss makes a Hessian flat:
$f(x) = w_1 w_2 \cdots w_d\, x$ with $L = \frac1N \sum_i e^{-y_i f(x_i)}$, there for d = 3 and a single example with
$X = -y x$. Everything here is in closed form, in float64, from the d weights and the N products $m_i = y_i x_i$.
With $P = \prod_i w_i$, $q_i = \prod_{j \ne i} w_j$, $M_{ij} = \prod_{k \ne i, j} w_k$ off the diagonal and 0 on it:

$$
\nabla L = -s_1 q, \qquad H = s_2\, q q^\top - s_1 M, \qquad s_k = \frac1N \sum_i m_i^k e^{-m_i P} .
$$

The paper's equation 3 is the first term alone, the Gauss-Newton matrix; its equation 4 has $X$ where $X^2$ belongs,
and says that trace and largest eigenvalue are one. Of that matrix they are. H has the same trace, because M has none,
but another largest eigenvalue.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from flatlib.errors import FlatlibError

Numbers = Sequence[float] | np.ndarray | Tensor


def deep_linear(weights: Numbers) -> nn.Sequential:
    """The chain as a network of d linear layers (1, 1) in float64: inputs (N, 1), outputs (N, 1)."""
    layers = []
    for weight in _vectors(weights, [1.0])[0]:
        layers.append(nn.Linear(1, 1, bias=False, dtype=torch.float64))
        nn.init.constant_(layers[-1].weight, float(weight))
    return nn.Sequential(*layers)


def exponential_loss(output: Tensor, target: Tensor) -> Tensor:
    r"""$\frac1N \sum_i e^{-y_i f_i}$ for outputs and targets of the same shape, targets -1 or 1."""
    if output.shape != target.shape:
        raise FlatlibError(
            f"exponential loss: targets of shape {tuple(target.shape)} for outputs of shape {tuple(output.shape)}"
        )
    return torch.exp(-target * output).mean()


def loss(weights: Numbers, products: Numbers = (1.0,)) -> float:
    """$L$ of the chain with these d weights, on examples with these $m_i = y_i x_i$."""
    return _mean_power(0, *_vectors(weights, products))


def gradient(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""$\nabla L = -s_1 q$, shape (d,)."""
    return torch.from_numpy(_slope(*_vectors(weights, products)))


def gauss_newton(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""$G = s_2\, q q^\top$, shape (d, d): of rank one, so that its trace is its only eigenvalue.

    Granziol's equation 3 is this matrix, with its factors $X$ misplaced.
    """
    w, m = _vectors(weights, products)
    q = _without_one(w)
    return torch.from_numpy(_mean_power(2, w, m) * np.outer(q, q))


def hessian(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""$H = s_2\, q q^\top - s_1 M$, shape (d, d)."""
    w, m = _vectors(weights, products)
    return gauss_newton(w, m) - torch.from_numpy(_mean_power(1, w, m) * _without_two(w))


def hessian_trace(weights: Numbers, products: Numbers = (1.0,)) -> float:
    r"""$\mathrm{tr}\,H = s_2 \sum_i q_i^2$, that of the Gauss-Newton matrix: no weight is multiplied by itself in f.

    Granziol's equation 4 with $X^2$ in the place of its $X$.
    """
    w, m = _vectors(weights, products)
    return _mean_power(2, w, m) * float((_without_one(w) ** 2).sum())


def sharpness(weights: Numbers, products: Numbers = (1.0,)) -> float:
    r"""$\lambda_1(H)$: the largest eigenvalue of the closed-form matrix; `balanced_sharpness` has none to solve."""
    return float(torch.linalg.eigvalsh(hessian(weights, products))[-1])


def balanced_sharpness(weight: float, depth: int = 3) -> float:
    r"""$\lambda_1(H)$ for d equal weights w > 0 and one example with $m = 1$; $f = w^d$ is then its output.

    The vector of ones is an eigenvector, every vector orthogonal to it is another:

    $$
    \lambda = \frac{f e^{-f}}{w^2} \big(1 + d (f - 1)\big) \ \text{(once)}, \qquad
    \lambda = \frac{f e^{-f}}{w^2} \ \text{(d - 1 times)} .
    $$

    >>> round(balanced_sharpness(2.0), 12) == round(sharpness([2.0, 2.0, 2.0]), 12)
    True
    """
    _check_depth(depth)
    if not (weight > 0 and math.isfinite(weight)):
        raise FlatlibError(f"weight={weight} must be positive")
    f = weight**depth
    return f * math.exp(-f) / weight**2 * max(1 + depth * (f - 1), 1)


def balanced_minimum(weight_decay: float, depth: int = 3) -> float:
    r"""The weight w > 0 at the minimum of $e^{-w_1 \cdots w_d} + \frac\gamma2 \|w\|^2$, where all d weights are equal.

    There $w^{d-2} e^{-w^d} = \gamma$; of the two solutions that a small $\gamma$ has, the larger is the minimum. The
    sharpness of the first term, the loss of the data, is then

    $$
    \lambda_1 = \gamma\, \big(1 + d (f - 1)\big), \qquad f = w^d = -\log L .
    $$

    Raises `FlatlibError` for a depth below 2 and for so large a $\gamma$ that the zero weights are the only minimum.
    """
    _check_depth(depth)
    if not (weight_decay > 0 and math.isfinite(weight_decay)):
        raise FlatlibError(f"weight_decay={weight_decay} must be positive")

    def surplus(log_weight: float) -> float:
        return (depth - 2) * log_weight - math.exp(depth * log_weight) - math.log(weight_decay)

    # w^(d-2) exp(-w^d) is largest at w^d = (d-2)/d and falls from there; for d = 2 it falls from w = 0 on.
    peak = math.log((depth - 2) / depth) / depth if depth > 2 else -40.0
    if surplus(peak) <= 0:
        raise FlatlibError(f"weight_decay={weight_decay:g} is so large that no minimum but zero weights is left")
    return math.exp(brentq(surplus, peak, math.log(800.0) / depth, xtol=1e-15, rtol=1e-15))


def gradient_descent(
    weights: Numbers,
    products: Numbers = (1.0,),
    *,
    learning_rate: float = 1.0,
    weight_decay: float = 0.0,
    updates: int = 10_000,
) -> Tensor:
    r"""The weights of full-batch gradient descent on $L + \frac\gamma2 \|w\|^2$, shape (updates + 1, d), start first.

    Raises `FlatlibError` where the weights stop being finite.
    """
    w, m = _vectors(weights, products)
    path = [w]
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        for _ in range(updates):
            w = w - learning_rate * (_slope(w, m) + weight_decay * w)
            path.append(w)
    if not np.isfinite(w).all():
        raise FlatlibError(f"gradient descent diverged: learning_rate={learning_rate:g} is too large")
    return torch.from_numpy(np.stack(path))


def trajectory(path: Tensor, products: Numbers = (1.0,), points: int = 60) -> pd.DataFrame:
    """Loss, sharpness and trace along a path of weights such as `gradient_descent` gives, at up to `points` updates
    from 1 on, spaced evenly in their logarithm: columns update, train_loss, lambda_max, trace."""
    updates = np.unique(np.geomspace(1, len(path) - 1, points).round().astype(int))
    return pd.DataFrame(
        {
            "update": updates,
            "train_loss": [loss(path[t], products) for t in updates],
            "lambda_max": [sharpness(path[t], products) for t in updates],
            "trace": [hessian_trace(path[t], products) for t in updates],
        }
    )


def _vectors(weights: Numbers, products: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d,) and products (N,) in float64."""
    found = []
    for name, values in (("weights", weights), ("products", products)):
        vector = torch.as_tensor(values, dtype=torch.float64).detach().numpy()
        if vector.ndim != 1 or len(vector) == 0:
            raise FlatlibError(f"{name}: expected a list of numbers, got the shape {vector.shape}")
        found.append(vector)
    return found[0], found[1]


def _check_depth(depth: int) -> None:
    if depth < 2:
        raise FlatlibError(f"depth={depth}: a chain has at least two weights")


def _mean_power(power: int, w: np.ndarray, m: np.ndarray) -> float:
    r"""$s_k = \frac1N \sum_i m_i^k e^{-m_i P}$; $s_0$ is the loss."""
    return float((m**power * np.exp(-m * w.prod())).mean())


def _slope(w: np.ndarray, m: np.ndarray) -> np.ndarray:
    return -_mean_power(1, w, m) * _without_one(w)


def _without_one(w: np.ndarray) -> np.ndarray:
    r"""$q_i = \prod_{j \ne i} w_j$, without dividing by a weight that may be zero."""
    return np.where(np.eye(len(w), dtype=bool), 1.0, w).prod(1)


def _without_two(w: np.ndarray) -> np.ndarray:
    r"""$M_{ij} = \prod_{k \ne i, j} w_k$ for i and j different, 0 on the diagonal."""
    same = np.eye(len(w), dtype=bool)
    return np.where(same, 0.0, np.where(same[:, None, :] | same[None, :, :], 1.0, w).prod(2))
