"""The spectral density of a curvature matrix by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.trace.hutchinson import rademacher
from flatlib.errors import FlatlibError

GRID = 1000
WIDTH = 0.01
"""Default points of a smoothed curve, and its width in parts of the spectrum's; for the eye only."""


@dataclass(frozen=True)
class Density:
    r"""$\mu = \frac1n \sum_i \delta_{\lambda_i}$ as weighted nodes, ascending.

    Attributes
    ----------
    nodes: (M,) float64 on the CPU, in units of the loss.
    weights: (M,) float64, not negative, with the sum 1.
    probe: (M,) which probe each node comes from; each probe's weights sum to 1 / probes.
    dimension: n, the number of parameters.
    products: Hessian-vector products used.
    """

    nodes: Tensor
    weights: Tensor
    probe: Tensor
    dimension: int
    products: int

    def moment(self, order: int) -> float:
        r"""$\int \lambda^k d\mu$: an estimate of $\mathrm{tr}(C) / n$ for k = 1, of $\|C\|_F^2 / n$ for k = 2."""
        return float(self.weights @ self.nodes**order)

    def smooth(self, grid: Tensor | None = None, width: float | None = None) -> tuple[Tensor, Tensor]:
        """The density with every node a Gaussian of the standard deviation `width`, on a grid; both (G,) float64.

        By default the width is `WIDTH` of the spectrum's and the grid reaches four widths past its ends. The curve
        integrates to 1; peaks narrower than the width are the width's, not the spectrum's.
        """
        low, high = float(self.nodes[0]), float(self.nodes[-1])
        if width is None:
            width = WIDTH * ((high - low) or abs(high) or 1.0)
        if not (width > 0 and math.isfinite(width)):
            raise FlatlibError(f"width={width} must be positive")
        if grid is None:
            grid = torch.linspace(low - 4 * width, high + 4 * width, GRID, dtype=torch.float64)
        grid = torch.as_tensor(grid, dtype=torch.float64)
        bumps = torch.exp(-(((grid[:, None] - self.nodes) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return grid, bumps @ self.weights


def density(operator: CurvatureOperator, steps: int = 100, probes: int = 1, seed: int = 0) -> Density:
    r"""Gauss quadrature of $\mu$ from Lanczos tridiagonal matrices (Golub and Meurant 1994; Ghorbani et al. 2019).

    From a random start vector the Ritz values are the nodes and the squared first entries of T's eigenvectors the
    weights, exact for polynomials of degree below 2 `steps` in that vector's own spectral measure, whose mean over
    vectors is $\mu$. One probe of 100 steps with full reorthogonalisation is Granziol 2020's setting (its appendix A);
    one probe of 100 steps is nearer to the spectrum than ten of 10.

    A probe ends early where its Krylov space is exhausted: steps past that would add ghosts of weight zero.

    Parameters
    ----------
    operator: of the matrix $C$, (n, n).
    steps: products a probe, at least 1; at most n are made.
    probes: Rademacher start vectors, at least 1.
    seed: of the probes, drawn from a generator of their own.

    Raises
    ------
    FlatlibError: for steps or probes below 1, and for a product that is not finite.
    """
    n = operator.shape[0]
    if steps < 1 or probes < 1:
        raise FlatlibError(f"steps={steps} and probes={probes} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    nodes, weights, products = [], [], 0
    for _ in range(probes):
        start = rademacher(n, 1, generator)[:, 0].to(operator.device, operator.torch_dtype)
        lanczos = Lanczos(operator.matvec, start, generator)
        while lanczos.steps < min(steps, n) and not lanczos.exhausted:
            lanczos.step()
        require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
        values, _, vectors = lanczos.ritz()
        nodes.append(torch.as_tensor(values))
        weights.append(torch.as_tensor(vectors[0] ** 2) / probes)
        products += lanczos.steps
    probe = torch.cat([torch.full((len(found),), i) for i, found in enumerate(nodes)])
    order = torch.cat(nodes).argsort(stable=True)
    return Density(torch.cat(nodes)[order], torch.cat(weights)[order], probe[order], n, products)
