r"""The quadratic $\frac12 (\lambda_1 x_1^2 + \lambda_2 x_2^2)$ and gradient descent on it, stable up to $2/\eta$."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from flatlib.errors import FlatlibError


def bowl(curvatures: Sequence[float], radius: float = 1.0, points: int = 41) -> pd.DataFrame:
    r"""Tabulate the quadratic on a square grid with $|x_i| \le$ radius: columns step_1, step_2 and loss.

    >>> float(bowl([4.0, 1.0], points=3)["loss"].max())
    2.5
    """
    first, second = _two(curvatures=curvatures)
    steps = np.linspace(-radius, radius, points)
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    return pd.DataFrame({"step_1": x, "step_2": y, "loss": 0.5 * (first * x**2 + second * y**2)})


def gradient_descent(
    curvatures: Sequence[float], start: Sequence[float], learning_rate: float, updates: int
) -> pd.DataFrame:
    r"""Tabulate the iterates $x_i(t) = (1 - \eta\lambda_i)^t\, x_i(0)$ of gradient descent.

    Each coordinate shrinks while $0 < \lambda_i < 2/\eta$ and grows, with a sign that alternates, beyond (Cohen et al.
    2021, "Gradient descent on neural networks typically occurs at the edge of stability", section 2).

    >>> gradient_descent([4.0, 1.0], [1.0, 1.0], learning_rate=0.5, updates=1)["step_1"].tolist()
    [1.0, -1.0]

    Returns:
        Columns ``update`` (0 to ``updates``), ``step_1`` and ``step_2``.
    """
    factors = 1 - learning_rate * np.array(_two(curvatures=curvatures))
    update = np.arange(updates + 1)
    path = np.array(_two(start=start)) * factors ** update[:, None]
    return pd.DataFrame({"update": update, "step_1": path[:, 0], "step_2": path[:, 1]})


def _two(**named: Sequence[float]) -> tuple[float, float]:
    ((name, values),) = named.items()
    if len(values) != 2 or not all(math.isfinite(value) for value in values):
        raise FlatlibError(f"{name}={list(values)} must be two finite numbers")
    return float(values[0]), float(values[1])
