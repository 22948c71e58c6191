"""Errors and limits of eigenvalues on diagonal matrices whose spectra and starts mislead Lanczos."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.curvature.spectrum.error_bounds import kato_temple, required_growth
from flatlib.curvature.spectrum.lanczos import Lanczos

CASES = 100  # of every spectrum
AT_MOST = 12  # of 100 cases where each has a probability of at most 5 %: exceeded once in 700 times
BULK = torch.linspace(-0.2, 0.2, 200).tolist()


class Diagonal(NamedTuple):
    """Diagonal matrix as an operator."""

    diagonal: torch.Tensor
    torch_dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")
    noise: float = 0.0

    @property
    def shape(self):
        return 2 * (len(self.diagonal),)

    def matvec(self, v):
        return self.diagonal * v


SPECTRA = {
    "separated": [1.0, 0.6, 0.4, 0.3, *BULK],
    "pair": [1.0, 0.99, 0.5, *BULK],
    "close pair": [1.0, 0.998, 0.5, *BULK],
    "cluster": [*torch.linspace(0.95, 1, 10).tolist(), *BULK],
    "duplicate": [1.0, 1.0, 1.0, 0.7, *BULK],
    "negative dominates": [1.0, 0.8, -10.0, -9.0, *BULK],
    "all negative": [-1.0, -1.1, -2.0, *torch.linspace(-4, -3, 200).tolist()],
    "low rank": [1.0, 0.9, -0.95, *(200 * [0.0])],
    "no gap": torch.linspace(-1, 1, 100).tolist(),
}


def off(operator, **arguments):
    """Among seeds: how many largest eigenvalues exceed the value by more than the tolerance, how many the limit."""
    true, missed, beyond = float(operator.diagonal.max()), 0, 0
    for seed in range(CASES):
        found = top_eigenvalues(operator, seed=seed, **arguments)
        assert found.converged
        missed += true - float(found.values[0]) > 1e-3 * abs(true)
        beyond += true > float(found.limits[0])
    return missed, beyond


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_largest_eigenvalue_is_within_limit_and_tolerance(spectrum):
    operator = Diagonal(torch.tensor(SPECTRA[spectrum], dtype=torch.float64))
    assert off(operator)[1] <= AT_MOST
    missed, beyond = off(operator, certify="end")
    assert max(missed, beyond) <= AT_MOST


def test_worst_warm_start():
    """From the second eigenvector the residual alone misses the first more often than not."""
    operator = Diagonal(torch.tensor([1.0, 0.99, 0.3, *(3000 * [0.0])], dtype=torch.float64))
    start = torch.eye(3003, 1, dtype=torch.float64)[:, 0].roll(1)
    missed, beyond = off(operator, start=start)
    assert missed > CASES / 2
    assert beyond <= AT_MOST
    assert max(off(operator, start=start, certify="end")) <= AT_MOST


def test_both_ends_and_scale():
    spectrum = torch.cat([torch.linspace(-1, 1, 60), torch.tensor([3.0, 2.5, -4.0])])
    for factor in (1e-30, 1.0, 1e30):
        operator = Diagonal(factor * spectrum.double())
        found = top_eigenvalues(operator, 2, which="both", certify="end")
        assert found.converged
        upper, lower = (found.limits / factor).tolist()
        assert 3 <= upper <= 3.003
        assert -4.004 <= lower <= -4
    few = top_eigenvalues(operator, 2, which="both", max_products=6)
    assert few.limits[0] > 1.02 * found.limits[0]
    assert few.limits[1] < 1.02 * found.limits[1]


def test_errors_are_quadratic_in_residuals():
    operator = Diagonal(torch.tensor(SPECTRA["separated"], dtype=torch.float64))
    held = 0
    for seed in range(CASES):
        found = top_eigenvalues(operator, 2, seed=seed)
        true = (found.values - operator.diagonal[:2]).abs()
        assert (found.errors <= found.residuals).all()
        assert found.errors[0] < 0.01 * found.residuals[0]
        held += bool((true <= found.errors).all())
    assert held >= 0.95 * CASES


def test_unseparated_errors_are_the_residuals():
    """Two Ritz values closer than their residuals have no gap, and a single one knows of none."""
    residuals = np.array([0.1, 0.2])
    assert kato_temple(np.array([1.0, 1.15]), residuals).tolist() == residuals.tolist()
    assert kato_temple(np.array([1.0]), residuals[:1]).tolist() == [0.1]


def test_limits_come_from_the_space_of_the_start():
    """The vector that continues an invariant space is not the start vector whose components are known."""
    operator = Diagonal(torch.tensor([3.0, 2.0, *(8 * [0.0])], dtype=torch.float64))
    lanczos = Lanczos(operator.matvec, torch.ones(10, dtype=torch.float64), torch.Generator())
    limits = []
    for _ in range(6):
        lanczos.step()
        limits.append(lanczos.limit(1, 1.0))
    assert limits[1] > 3.1
    assert limits[2] == pytest.approx(3, rel=1e-9)
    assert limits[2:] == pytest.approx(4 * [limits[2]], rel=0, abs=1e-15)


@pytest.mark.parametrize("n", [3, 10, 1000])
@pytest.mark.parametrize("random_part", [1.0, 0.7])
def test_required_growth_is_that_of_the_worst_start(n, random_part):
    """A warm part orthogonal to an eigenvector is the worst; then a component is below the bound in 5 % of cases."""
    z = torch.randn(20000, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    component = random_part * (z[:, 0] / z.norm(dim=1)).abs()
    below = float((component < 1 / required_growth(n, random_part)).double().mean())
    assert below <= 0.055
    assert below >= (0.03 if n > 3 else 0.02)


def test_pyhessian_has_no_limits(small_case):
    found = top_eigenvalues(HessianOperator(*small_case), which="both", engine="pyhessian")
    assert torch.equal(found.errors, found.residuals)
    assert found.limits.tolist() == [math.inf, -math.inf]
