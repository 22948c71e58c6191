r"""Deep linear network of width one with the exponential loss: its gradient and Hessian in closed form.

Granziol 2020 ("Flatness is a false friend", section 2) argues with it that a small loss makes a Hessian flat:
$f(x) = w_1 w_2 \cdots w_d\, x$ with $L = \frac1N \sum_i e^{-y_i f(x_i)}$, there for d = 3 and a single example with
$X = -y x$. Everything here is in closed form, in float64, from the d weights and the N products $m_i = y_i x_i$.
With $P = \prod_i w_i$, $q_i = \prod_{j \ne i} w_j$, $M_{ij} = \prod_{k \ne i, j} w_k$ off the diagonal and 0 on it:

$$
\nabla L = -s_1 q, \qquad H = s_2\, q q^\top - s_1 M, \qquad s_k = \frac1N \sum_i m_i^k e^{-m_i P} .
$$

The paper's equation 3 is the first term alone, the Gauss-Newton matrix; its equation 4 has $X$ where $X^2$ belongs,
and equates trace and largest eigenvalue, which holds for that matrix. H has the same trace, because M has none, but
another largest eigenvalue.
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
    """Return the chain as a network of d linear layers (1, 1) in float64: inputs (N, 1), outputs (N, 1)."""
    layers = []
    for weight in _vectors(weights, [1.0])[0]:
        layers.append(nn.Linear(1, 1, bias=False, dtype=torch.float64))
        nn.init.constant_(layers[-1].weight, float(weight))
    return nn.Sequential(*layers)


def exponential_loss(output: Tensor, target: Tensor) -> Tensor:
    r"""Return $\frac1N \sum_i e^{-y_i f_i}$ for outputs and targets of the same shape, targets -1 or 1."""
    if output.shape != target.shape:
        raise FlatlibError(
            f"exponential loss: targets of shape {tuple(target.shape)} for outputs of shape {tuple(output.shape)}"
        )
    return torch.exp(-target * output).mean()


def chain_loss(weights: Numbers, products: Numbers = (1.0,)) -> float:
    """Return $L$ of the chain with these d weights, on examples with these products $m_i = y_i x_i$."""
    return _mean_power(0, *_vectors(weights, products))


def chain_gradient(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""Return $\nabla L = -s_1 q$, shape (d,)."""
    return torch.from_numpy(_gradient_array(*_vectors(weights, products)))


def chain_gauss_newton(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""Return $G = s_2\, q q^\top$, shape (d, d): of rank one, so that its trace is its only eigenvalue.

    Granziol's equation 3 is this matrix, with its factors $X$ misplaced.
    """
    w, m = _vectors(weights, products)
    q = _without_one(w)
    return torch.from_numpy(_mean_power(2, w, m) * np.outer(q, q))


def chain_hessian(weights: Numbers, products: Numbers = (1.0,)) -> Tensor:
    r"""Return $H = s_2\, q q^\top - s_1 M$, shape (d, d)."""
    w, m = _vectors(weights, products)
    same = np.eye(len(w), dtype=bool)
    without_two = np.where(same, 0.0, np.where(same[:, None, :] | same[None, :, :], 1.0, w).prod(2))
    return chain_gauss_newton(w, m) - torch.from_numpy(_mean_power(1, w, m) * without_two)


def hessian_trace(weights: Numbers, products: Numbers = (1.0,)) -> float:
    r"""Return $\mathrm{tr}\,H = s_2 \sum_i q_i^2$, that of the Gauss-Newton matrix: f is linear in each weight.

    Granziol's equation 4 with $X^2$ in the place of its $X$.
    """
    w, m = _vectors(weights, products)
    return _mean_power(2, w, m) * float((_without_one(w) ** 2).sum())


def chain_sharpness(weights: Numbers, products: Numbers = (1.0,)) -> float:
    r"""Return $\lambda_1(H)$, the largest eigenvalue of the closed-form matrix."""
    return float(torch.linalg.eigvalsh(chain_hessian(weights, products))[-1])


def balanced_sharpness(weight: float, depth: int = 3) -> float:
    r"""Return $\lambda_1(H)$ for d equal weights w > 0 and one example with $m = 1$, whose output is $f = w^d$.

    The vector of ones is an eigenvector, and so is every vector orthogonal to it:

    $$
    \lambda = \frac{f e^{-f}}{w^2} \big(1 + d (f - 1)\big) \ \text{(once)}, \qquad
    \lambda = \frac{f e^{-f}}{w^2} \ \text{(d - 1 times)} .
    $$

    >>> round(balanced_sharpness(2.0), 12) == round(chain_sharpness([2.0, 2.0, 2.0]), 12)
    True
    """
    _check(depth, weight=weight)
    f = weight**depth
    return f * math.exp(-f) / weight**2 * max(1 + depth * (f - 1), 1)


def balanced_minimum(weight_decay: float, depth: int = 3) -> float:
    r"""Return the weight w > 0 of all d layers at the minimum of $e^{-w_1 \cdots w_d} + \frac\gamma2 \|w\|^2$.

    There $w^{d-2} e^{-w^d} = \gamma$; of the two solutions that a small $\gamma$ has, the larger is the minimum. The
    sharpness of the first term, the loss of the data, is then

    $$
    \lambda_1 = \gamma\, \big(1 + d (f - 1)\big), \qquad f = w^d = -\log L .
    $$

    Raises:
        FlatlibError: If the depth is below 2, or $\gamma$ so large that the zero weights are the only minimum.
    """
    _check(depth, weight_decay=weight_decay)

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
    r"""Return the weights of full-batch gradient descent on $L + \frac\gamma2 \|w\|^2$, shape (updates + 1, d).

    Raises:
        FlatlibError: If the weights stop being finite.
    """
    w, m = _vectors(weights, products)
    path = [w]
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        for _ in range(updates):
            w = w - learning_rate * (_gradient_array(w, m) + weight_decay * w)
            path.append(w)
    if not np.isfinite(w).all():
        raise FlatlibError(f"gradient descent diverged: learning_rate={learning_rate:g} is too large")
    return torch.from_numpy(np.stack(path))


def trajectory_table(path: Tensor, products: Numbers = (1.0,), points: int = 60) -> pd.DataFrame:
    """Tabulate loss, sharpness and trace along a path of weights, such as ``gradient_descent`` returns.

    Args:
        path: Weights (updates + 1, d).
        products: $m_i = y_i x_i$ of the examples.
        points: Most rows; their updates start at 1 and are spaced evenly in their logarithm.

    Returns:
        Columns ``update``, ``train_loss``, ``lambda_max`` and ``trace``.
    """
    updates = np.unique(np.geomspace(1, len(path) - 1, points).round().astype(int))
    measures = {"train_loss": chain_loss, "lambda_max": chain_sharpness, "trace": hessian_trace}
    values = {name: [measure(path[t], products) for t in updates] for name, measure in measures.items()}
    return pd.DataFrame({"update": updates} | values)


def _vectors(weights: Numbers, products: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Convert weights (d,) and products (N,) to float64."""
    found = []
    for name, values in (("weights", weights), ("products", products)):
        vector = torch.as_tensor(values, dtype=torch.float64).detach().numpy()
        if vector.ndim != 1 or len(vector) == 0:
            raise FlatlibError(f"{name}: expected a list of numbers, got the shape {vector.shape}")
        found.append(vector)
    return found[0], found[1]


def _check(depth: int, **numbers: float) -> None:
    if depth < 2:
        raise FlatlibError(f"depth={depth}: a chain has at least two weights")
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise FlatlibError(f"{name}={number} must be positive")


def _mean_power(power: int, w: np.ndarray, m: np.ndarray) -> float:
    r"""Return $s_k = \frac1N \sum_i m_i^k e^{-m_i P}$; $s_0$ is the loss."""
    return float((m**power * np.exp(-m * w.prod())).mean())


def _gradient_array(w: np.ndarray, m: np.ndarray) -> np.ndarray:
    return -_mean_power(1, w, m) * _without_one(w)


def _without_one(w: np.ndarray) -> np.ndarray:
    r"""Return $q_i = \prod_{j \ne i} w_j$, without dividing by a weight that may be zero."""
    return np.where(np.eye(len(w), dtype=bool), 1.0, w).prod(1)
