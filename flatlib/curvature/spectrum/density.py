"""Spectral density of a curvature matrix by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetry
from flatlib.curvature.spectrum.deflation import Deflation, lanczos_deflation
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.traces.hutchinson import rademacher, require_precision
from flatlib.errors import FlatlibError

RELATIVE_ERROR = 0.1  # one probe on trained nets, whose spectra have a part of 0.05 to 0.08 at random
STEPS = 10  # per probe of the deflated matrix
DEFLATION = 12  # Lanczos steps, as a search for the largest eigenvalue makes on trained nets
MOST_PROBES = 10  # beyond which a wanted error is missed rather than paid for
PLAIN_STEPS = 100  # of the one probe of Granziol 2020
GRID_POINTS = 1000  # default points of a smoothed curve
WIDTH = 0.01  # default width of its peaks, as a part of the spectrum's; for the eye only


@dataclass(frozen=True)
class Density:
    r"""Spectral density $\mu = \frac1n \sum_i \delta_{\lambda_i}$ as weighted nodes, ascending.

    Attributes:
        nodes: (M,) float64 on the CPU, in units of the loss.
        weights: (M,) float64, not negative, with the sum 1.
        probe: (M,) index of the probe that each node comes from, -1 if it comes from none; the weights of all probes
            have the same sum.
        dimension: Number n of parameters.
        products: Hessian-vector products used.
        relative_error: Standard error of the root of the second moment over that root, at most: from the fourth moment
            m of what was probed, as the variance of $z^\top A^2 z$ is at most $2 \|A^2\|_F^2$, and the part of $PCQ$.
    """

    nodes: Tensor
    weights: Tensor
    probe: Tensor
    dimension: int
    products: int
    relative_error: float

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


def density(
    operator: CurvatureOperator,
    steps: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    *,
    relative_error: float = RELATIVE_ERROR,
    deflation: Deflation | None = None,
) -> Density:
    r"""Estimate the spectral density by Gauss quadrature from Lanczos tridiagonal matrices.

    From a random start vector the Ritz values are the nodes and the squared first entries of T's eigenvectors the
    weights, exact for polynomials of degree below 2 ``steps`` in that vector's own spectral measure, whose mean over
    vectors is $\mu$ (Golub and Meurant 1994; Ghorbani et al. 2019, arXiv:1901.10159). A probe ends early where its
    Krylov space is exhausted: more steps would add ghost eigenvalues.

    A random vector weighs the few large eigenvalues badly: each by the square of a normal number instead of 1. Hence
    they are deflated: with $Q$ and $P$ of a ``Deflation`` of m dimensions, the nodes are the eigenvalues of
    $Q^\top C Q$, of weight $1 / n$ each, and those of probes of $P C P$, of weight $1 - m / n$ in all. What is ignored,
    $PCQ$ and its transpose, has rank 2 after Lanczos, and so changes no count of eigenvalues below a bound by more than
    2 (Bai and Silverstein 2010, theorem A.43). On the spectra of trained networks 12 deflating steps and one probe of
    10 gave the root of the second moment to 6 %, and one plain probe of 100 steps to 20 %.

    Given ``steps`` or ``probes``, the quadrature is the plain one; one probe of 100 steps is the setting of Granziol
    2020 (arXiv:2006.09091, appendix A).

    >>> from flatlib.curvature import HessianOperator
    >>> H = HessianOperator(torch.nn.Linear(2, 1, bias=False), "mse", (torch.eye(2), torch.ones(2, 1)))
    >>> round(density(H).moment(1), 6)  # H is the unit matrix
    1.0

    Args:
        operator: Matrix $C$, (n, n).
        steps: Products per probe, at least 1; at most n are made. By default 10, and 100 if ``probes`` is given.
        probes: Rademacher start vectors, at least 1. By default as many as the wanted error needs, and 1 if ``steps``
            is given.
        seed: Seed of the probes and of the deflated space.
        relative_error: Wanted standard error of the root of the second moment over that root; at most 10 probes are
            made for it.
        deflation: Space that is measured without probes; by default 12 Lanczos steps, and none if ``steps`` or
            ``probes`` is given.

    Raises:
        FlatlibError: If steps or probes are below 1, the wanted error is not positive, or a product is not finite.
    """
    if (steps or 1) < 1 or (probes or 1) < 1 or 0 in (steps, probes):
        raise FlatlibError(f"steps={steps} and probes={probes} must be at least 1")
    require_precision(relative_error, None)
    plain = steps is not None or probes is not None
    if deflation is None and not plain:
        deflation = lanczos_deflation(operator, seed, DEFLATION)
    matrix = deflation.operator if deflation else operator
    length = min(
        steps or (PLAIN_STEPS if plain else STEPS), matrix.shape[0] - (deflation.basis.shape[1] if deflation else 0)
    )
    generator = torch.Generator().manual_seed(seed)

    def probe() -> Probe:
        return _probe(matrix, deflation, length, generator)

    found = [probe() for _ in range(probes or 1)]
    if not plain:
        ratio = _collect(operator, deflation, found).relative_error / relative_error
        found += [probe() for _ in range(math.ceil(min(ratio**2, MOST_PROBES)) - 1)]
    return _collect(operator, deflation, found)


class Probe(NamedTuple):
    """Quadrature of one start vector: nodes and weights with the sum 1, (M,) float64, and the products it took."""

    nodes: Tensor
    weights: Tensor
    products: int


def _probe(matrix: CurvatureOperator, deflation: Deflation | None, steps: int, generator: torch.Generator) -> Probe:
    """Return the quadrature of a Rademacher vector, of the deflated matrix if there is a deflation."""
    start = rademacher(matrix.shape[0], 1, generator)[:, 0].to(matrix.device, matrix.torch_dtype)
    if steps == 0:  # nothing lies outside the deflated space
        return Probe(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0)
    if deflation is None:
        lanczos = Lanczos(matrix.matvec, start, generator)
    else:
        lanczos = Lanczos(deflation.outside, deflation.project(start), generator)
    while lanczos.steps < steps and not lanczos.exhausted:
        lanczos.step()
    require_symmetry(lanczos.asymmetry, max(lanczos.size, deflation.size if deflation else 0.0), matrix.noise)
    values, _, vectors = lanczos.ritz()
    return Probe(torch.as_tensor(values), torch.as_tensor(vectors[0] ** 2), lanczos.steps)


def _collect(operator: CurvatureOperator, deflation: Deflation | None, probes: list[Probe]) -> Density:
    """Return the density of deflated eigenvalues and probes; where the deflated matrix is smaller, of zeros as well."""
    n = operator.shape[0]
    known = deflation.values if deflation else torch.zeros(0, dtype=torch.float64)
    zeros = n - deflation.operator.shape[0] if deflation else 0
    sampled = n - zeros - len(known)
    nodes = [known, known.new_zeros(int(zeros > 0)), *(one.nodes for one in probes)]
    weights = [torch.full_like(known, 1 / n), known.new_full((int(zeros > 0),), zeros / n)]
    weights += [one.weights * sampled / n / len(probes) for one in probes]
    origin = [
        torch.full((len(known) + int(zeros > 0),), -1),
        *(torch.full((len(o.nodes),), i) for i, o in enumerate(probes)),
    ]
    fourth = sampled * float(torch.stack([one.weights @ one.nodes**4 for one in probes]).mean())
    node, weight = torch.cat(nodes), torch.cat(weights)
    order = node.argsort(stable=True)
    second = n * float(weight @ node**2)
    missing = deflation.coupling if deflation else 0.0
    error = (math.sqrt(fourth / (2 * len(probes))) + missing) / second if second > 0 else 0.0
    products = sum(one.products for one in probes) + (deflation.products if deflation else 0)
    return Density(node[order], weight[order], torch.cat(origin)[order], n, products, error)
