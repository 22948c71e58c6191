import pytest
import torch

from flatlib.curvature import GaussNewtonOperator, HessianOperator, frobenius, top_eigenvalues

SPECTRUM = [9.0, -5.0, 3.0, *torch.linspace(-1, 1, 147).tolist()]
NORM = sum(value**2 for value in SPECTRUM) ** 0.5
CHOSEN = {"relative_error": 0.006}


@pytest.fixture
def large(quadratic):
    """Of 150 parameters, more than are measured column by column."""
    operator = HessianOperator(*quadratic(SPECTRUM))
    operator.matmat = operator.matvec = operator.to_dense().matmul  # a fast one: thousands of products follow
    return operator


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_agrees_with_the_dense_norm(case, kind):
    operator = kind(*case, chunk_size=9)
    found = frobenius(operator)
    dense = operator.to_dense()
    assert found.value == pytest.approx(float(dense.norm()), rel=1e-10)
    assert found.squared.value == pytest.approx(found.value**2)
    assert found.per_parameter.value == pytest.approx(float(dense.norm() ** 2) / len(dense))
    assert (found.standard_error, found.exact, found.products) == (0.0, True, len(dense))


def test_estimates_of_a_large_matrix(large):
    found = frobenius(large)
    assert abs(found.value - NORM) < 4 * found.standard_error
    assert found.standard_error <= 0.02 * NORM
    assert (found.exact, found.products) == (False, 22)  # 14 of Lanczos and the pilot's
    finer = frobenius(large, relative_error=0.005)
    assert 22 < finer.products <= 114
    assert abs(finer.value - NORM) < 4 * finer.standard_error < 4 * found.standard_error
    assert found.per_parameter.value == pytest.approx(found.value**2 / 150)
    assert found.per_parameter.standard_error == pytest.approx(found.squared.standard_error / 150)
    assert frobenius(large) == found != frobenius(large, seed=1)


def test_a_basis_of_ones_own(large):
    top = top_eigenvalues(large, 2, which="both").vectors
    found = frobenius(large, probes=100, basis=torch.cat([top, top @ torch.randn(4, 1, dtype=torch.float64)], 1)[:, :3])
    assert abs(found.value - NORM) < 4 * found.standard_error
    assert found.products == 103
    blind = frobenius(large, probes=100, basis=torch.eye(150, dtype=torch.float64)[:, :1])
    assert abs(blind.value - NORM) < 4 * blind.standard_error
    assert blind.standard_error > 3 * found.standard_error
    assert frobenius(large, basis=torch.eye(150, dtype=torch.float64)).value == pytest.approx(NORM, rel=1e-10)


def test_standard_errors_cover(large):
    """Of the square, unbiased, and of its root; with a fixed number of probes, and with one that the pilot chooses."""
    fixed, chosen = ([frobenius(large, seed=seed, **how) for seed in range(150)] for how in ({"probes": 71}, CHOSEN))
    assert {one.products for one in fixed} == {85}
    assert len({one.products for one in chosen}) > 10
    squares = [one.squared for one in chosen]
    for true, estimates in (
        (NORM, fixed),
        (NORM**2, [one.squared for one in fixed]),
        (NORM, chosen),
        (NORM**2, squares),
    ):
        covered = sum(abs(one.value - true) <= 2 * one.standard_error for one in estimates) / 150
        assert 0.89 <= covered <= 0.99
