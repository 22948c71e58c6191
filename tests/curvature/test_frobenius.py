import pytest
import torch

from flatlib.curvature import GaussNewtonOperator, HessianOperator, frobenius, top_eigenvalues
from flatlib.losses import resolve_loss

SPECTRUM = [9.0, -5.0, 3.0, *torch.linspace(-1, 1, 147).tolist()]
NORM = sum(value**2 for value in SPECTRUM) ** 0.5


@pytest.fixture(scope="module")
def large():
    """Of 150 parameters, more than are measured column by column."""
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(150, 150, generator=generator, dtype=torch.float64))
    return Matrix((rotation * torch.tensor(SPECTRUM, dtype=torch.float64)) @ rotation.T)


class Matrix:
    """A matrix with the interface of an operator."""

    noise = 0.0

    def __init__(self, matrix):
        self.matrix, self.shape, self.torch_dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device

    def matmat(self, V):
        return self.matrix @ V

    matvec = matmat

    def to_dense(self):
        return self.matrix


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_agrees_with_the_dense_norm(case, kind):
    operator = kind(case.model, case.loss, case.data, chunk_size=9)
    found = frobenius(operator)
    dense = operator.to_dense()
    assert found.value == pytest.approx(float(dense.norm()), rel=1e-10)
    assert found.squared.value == pytest.approx(found.value**2)
    assert found.per_parameter.value == pytest.approx(float(dense.norm() ** 2) / len(dense))
    assert (found.standard_error, found.exact, found.products) == (0.0, True, len(dense))


def test_estimates_of_a_large_matrix(large):
    found = frobenius(large)
    assert abs(found.value - NORM) < 4 * found.standard_error
    assert found.standard_error < 0.01 * NORM
    assert (found.exact, found.products) == (False, 100)
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
    """Of the square, unbiased, and of its root."""
    found = [frobenius(large, probes=71, seed=seed) for seed in range(150)]
    for true, estimates in ((NORM, found), (NORM**2, [one.squared for one in found])):
        covered = sum(abs(one.value - true) <= 2 * one.standard_error for one in estimates) / 150
        assert 0.89 <= covered <= 0.99


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_errors_are_relative(large, factor):
    plain = frobenius(Matrix(large.matrix.float()))
    scaled = frobenius(Matrix((factor * large.matrix).float()))
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-5)
    assert scaled.standard_error == pytest.approx(factor * plain.standard_error, rel=1e-3)


def test_loss_scaled(small_case):
    loss = resolve_loss(small_case.loss)
    operator = HessianOperator(small_case.model, lambda o, t: 1e-9 * loss(o, t), small_case.data)
    assert frobenius(operator).value == pytest.approx(1e-9 * float(small_case.dense().norm()), rel=1e-10)
