"""Spectral density of a curvature matrix by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.traces.hutchinson import rademacher
from flatlib.errors import FlatlibError

GRID_POINTS = 1000  # default points of a smoothed curve
WIDTH = 0.01  # default width of its peaks, as a part of the spectrum's; for the eye only


@dataclass(frozen=True)
class Density:
    r"""Spectral density $\mu = \frac1n \sum_i \delta_{\lambda_i}$ as weighted nodes, ascending.

    Attributes:
        nodes: (M,) float64 on the CPU, in units of the loss.
        weights: (M,) float64, not negative, with the sum 1.
        probe: (M,) index of the probe that each node comes from; each probe's weights sum to 1 / probes.
        dimension: Number n of parameters.
        products: Hessian-vector products used.
    """

    nodes: Tensor
    weights: Tensor
    probe: Tensor
    dimension: int
    products: int

    def moment(self, order: int) -> float:
        r"""Return $\int \lambda^k d\mu$ of order k: it estimates $\mathrm{tr}(C) / n$ (1), $\|C\|_F^2 / n$ (2)."""
        return float(self.weights @ self.nodes**order)

    def smooth(self, grid: Tensor | None = None, width: float | None = None) -> tuple[Tensor, Tensor]:
        """Return a grid (G,) and the density (G,) on it, in float64; every node is a Gaussian, the integral 1.

        Args:
            grid: Points (G,); by default they reach four widths past the ends of the spectrum.
            width: Standard deviation; by default 0.01 of the spectrum's range. Narrower peaks cannot be resolved.

        Raises:
            FlatlibError: If the width is not positive.
        """
        low, high = float(self.nodes[0]), float(self.nodes[-1])
        if width is None:
            width = WIDTH * ((high - low) or abs(high) or 1.0)
        if not (width > 0 and math.isfinite(width)):
            raise FlatlibError(f"width={width} must be positive")
        if grid is None:
            grid = torch.linspace(low - 4 * width, high + 4 * width, GRID_POINTS, dtype=torch.float64)
        grid = torch.as_tensor(grid, dtype=torch.float64)
        bumps = torch.exp(-(((grid[:, None] - self.nodes) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return grid, bumps @ self.weights


def density(operator: CurvatureOperator, steps: int = 100, probes: int = 1, seed: int = 0) -> Density:
    r"""Estimate the spectral density by Gauss quadrature from Lanczos tridiagonal matrices.

    From a random start vector the Ritz values are the nodes and the squared first entries of T's eigenvectors the
    weights, exact for polynomials of degree below 2 ``steps`` in that vector's own spectral measure, whose mean over
    vectors is $\mu$ (Golub and Meurant 1994; Ghorbani et al. 2019, arXiv:1901.10159). One probe of 100 steps with full
    reorthogonalization is the setting of Granziol 2020 (arXiv:2006.09091, appendix A), and nearer to the spectrum than
    ten probes of 10. A probe ends early where its Krylov space is exhausted: more steps would add ghost eigenvalues.

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> round(density(H).moment(1), 6)  # H is the unit matrix
    1.0

    Args:
        operator: Matrix $C$, (n, n).
        steps: Products per probe, at least 1; at most n are made.
        probes: Rademacher start vectors, at least 1.
        seed: Seed of the probes.

    Raises:
        FlatlibError: If steps or probes are below 1, or a product is not finite.
    """
    n = operator.shape[0]
    if steps < 1 or probes < 1:
        raise FlatlibError(f"steps={steps} and probes={probes} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    nodes, weights, probe, products = [], [], [], 0
    for i in range(probes):
        start = rademacher(n, 1, generator)[:, 0].to(operator.device, operator.torch_dtype)
        lanczos = Lanczos(operator.matvec, start, generator)
        while lanczos.steps < min(steps, n) and not lanczos.exhausted:
            lanczos.step()
        require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
        values, _, vectors = lanczos.ritz()
        nodes.append(torch.as_tensor(values))
        weights.append(torch.as_tensor(vectors[0] ** 2) / probes)
        probe.append(torch.full((len(values),), i))
        products += lanczos.steps
    order = torch.cat(nodes).argsort(stable=True)
    return Density(torch.cat(nodes)[order], torch.cat(weights)[order], torch.cat(probe)[order], n, products)
