"""Deflation: a few dimensions in which a matrix is measured, so that random vectors have to sample only the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib.curvature.operators.base import CurvatureOperator
from flatlib.curvature.operators.symmetry import require_symmetric, require_symmetry
from flatlib.curvature.spectrum.input_subspace import reduced_operator
from flatlib.curvature.spectrum.lanczos import Lanczos
from flatlib.curvature.spectrum.lanczos_search import Eigenvalues, KrylovSpace, initial_vector
from flatlib.errors import FlatlibError

# With the 8 probes of a pilot, 14 and 16 steps gave an MLP's and a small CNN's Frobenius norm to 2 % for the fewest
# products: 28 and 24 in the mean.
STEPS = 14


@dataclass(frozen=True)
class Deflation:
    r"""Orthonormal basis $Q$ of m dimensions, and what a matrix $C$ does there.

    With $P = I - Q Q^\top$, $C = Q Q^\top C Q Q^\top + P C P + (P C Q Q^\top + \text{transpose})$.

    Attributes:
        operator: $C$, (n, n), or a smaller matrix with the same eigenvalues apart from zeros.
        basis: $Q$, (n, m), in the operator's dtype and on its device.
        values: Eigenvalues of $Q^\top C Q$, (m,) float64 on the CPU, ascending.
        coupling: $\|P C Q\|_F^2$.
        products: Hessian-vector products used.
    """

    operator: CurvatureOperator
    basis: Tensor
    values: Tensor
    coupling: float
    products: int

    @property
    def trace(self) -> float:
        r"""Return $\mathrm{tr}\, Q^\top C Q$: $\mathrm{tr}\, C$ without $\mathrm{tr}\, P C P$."""
        return float(self.values.sum())

    @property
    def squared_norm(self) -> float:
        r"""Return $\|Q^\top C Q\|_F^2 + 2 \|P C Q\|_F^2$: $\|C\|_F^2$ without $\|P C P\|_F^2$."""
        return float(self.values.square().sum()) + 2 * self.coupling

    @property
    def size(self) -> float:
        r"""Return $\|Q^\top C Q\|_2$, to which rounding errors are relative."""
        return float(self.values.abs().max())

    def project(self, v: Tensor) -> Tensor:
        """Return $Pv$ for a vector (n,) or columns (n, k)."""
        return v - self.basis @ (self.basis.T @ v)

    def outside(self, v: Tensor) -> Tensor:
        """Return $PCPv$ for a vector (n,)."""
        return self.project(self.operator.matvec(self.project(v)))


def basis_deflation(operator: CurvatureOperator, basis: Tensor) -> Deflation:
    """Return the deflation of the space of independent columns (n, m), from one product for each."""
    Q, _ = torch.linalg.qr(basis.detach().to(operator.device, operator.torch_dtype))
    CQ = operator.matmat(Q)
    projected = Q.T @ CQ
    require_symmetric(projected, operator.noise)
    values = torch.linalg.eigvalsh(projected.double().cpu())
    coupling = float((CQ - Q @ projected).double().square().sum())
    return Deflation(operator, Q, values, coupling, Q.shape[1])


def krylov_deflation(found: Eigenvalues, steps: int = 0) -> Deflation:
    """Return the deflation of the Krylov space that a search has kept.

    >>> from flatlib.curvature import HessianOperator, top_eigenvalues, trace
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 20), torch.nn.Tanh(), torch.nn.Linear(20, 3))
    >>> H = HessianOperator(model, "cross_entropy", (torch.randn(40, 6), torch.arange(40) % 3))
    >>> space = krylov_deflation(top_eigenvalues(H, keep_krylov=True))
    >>> trace(H, deflation=space).standard_error < trace(H, probes=100).standard_error
    True

    Args:
        found: Eigenvalues found with ``keep_krylov=True``.
        steps: Lanczos steps to which the space is continued if it has fewer, one product for each.

    Raises:
        FlatlibError: If the search has not kept it.
    """
    if found.krylov is None:
        raise FlatlibError("the search has kept no Krylov space: pass keep_krylov=True to top_eigenvalues")
    return _continue(found.krylov, steps)


def _continue(krylov: KrylovSpace, steps: int) -> Deflation:
    operator, lanczos = krylov
    assert isinstance(operator, CurvatureOperator), "which multiplies many vectors at a time"
    while lanczos.steps < min(steps, operator.shape[0]) and not lanczos.exhausted:
        lanczos.step()
    require_symmetry(lanczos.asymmetry, lanczos.size, operator.noise)
    values, residuals, _ = lanczos.ritz()
    # The eigenvectors of T have unit last rows, so that the squared residuals sum to beta^2.
    coupling = float((residuals**2).sum())
    return Deflation(operator, lanczos.basis.T, torch.as_tensor(values), coupling, lanczos.steps)


def lanczos_deflation(operator: CurvatureOperator, seed: int, steps: int = STEPS) -> Deflation:
    """Return the deflation of the Krylov space of a random vector, in the subspace of the inputs where that is cheaper.

    Args:
        operator: Matrix $C$.
        seed: Seed of the vector.
        steps: Dimensions, at most those of the matrix; one product for each.
    """
    reduced = reduced_operator(operator)
    inner = operator if reduced is None else reduced.operator
    generator = torch.Generator().manual_seed(seed)
    lanczos = Lanczos(inner.matvec, initial_vector(inner, "random", generator), generator)
    return _continue(KrylovSpace(inner, lanczos), steps)
