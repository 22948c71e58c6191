"""All eigenvalues above a threshold against dense spectra: how many, how exact, and whether any may be missing."""

import pytest
import torch
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, PreconditionedOperator, eigenvalues_above
from flatlib.errors import FlatlibError


def check(operator, threshold, spectrum, **options):
    """Compare with the spectrum, ascending, and the vectors with the operator."""
    found = eigenvalues_above(operator, threshold, **options)
    expected = spectrum.flip(0)[: int((spectrum > threshold).sum())].double()
    assert (found.count, found.complete, found.converged) == (len(expected), True, True)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=0)
    assert ((found.values - expected).abs() <= found.residuals + 1e-12).all()
    identity = torch.eye(found.count, dtype=found.vectors.dtype)
    torch.testing.assert_close(found.vectors.T @ found.vectors, identity, rtol=0, atol=1e-5)
    product = torch.stack([operator.matvec(v) for v in found.vectors.T], 1) if found.count else found.vectors
    residuals = (product.double() - found.vectors.double() * found.values).norm(dim=0)
    assert (residuals <= found.residuals * (1 + 1e-6) + 1e-12).all()
    return found


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_agrees_with_the_dense_spectrum(case, kind):
    operator = kind(*case, chunk_size=10)
    spectrum = torch.linalg.eigvalsh(operator.to_dense())
    for place in (-1, -2, -6):
        check(operator, float(spectrum[place - 1] + spectrum[place]) / 2, spectrum)
    above_all = check(operator, 1.5 * float(spectrum[-1]), spectrum)
    assert above_all.vectors.shape == (len(spectrum), 0)


@pytest.mark.parametrize("seed", range(5))
def test_multiple_eigenvalues_count_as_often_as_they_occur(quadratic, seed):
    spectrum = torch.tensor([*[0.1] * 30, *[-9.0] * 3, 2.0, 3.0, 3.0, 3.0, 5.0, 5.0]).double().sort().values
    operator = HessianOperator(*quadratic(spectrum.tolist()))
    assert check(operator, 1.0, spectrum, seed=seed).count == 6
    assert check(operator, 4.0, spectrum, seed=seed).count == 2
    assert check(operator, 0.01, spectrum, seed=seed).count == 36


def test_a_whole_spectrum(quadratic):
    spectrum = torch.linspace(1, 2, 12).double()
    assert check(HessianOperator(*quadratic(spectrum.tolist())), 0.5, spectrum).count == 12


def test_many_in_float32(quadratic):
    spectrum = torch.cat([torch.linspace(-1, 1, 150), torch.linspace(2, 500, 40)]).double()
    found = check(HessianOperator(*quadratic(spectrum.tolist(), dtype=torch.float32)), 1.5, spectrum)
    assert found.products < 260


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_scale_of_the_loss(small_case, factor):
    model, _, data = small_case
    spectrum = torch.linalg.eigvalsh(small_case.dense())
    threshold = factor * float(spectrum[-4] + spectrum[-3]) / 2

    def loss(output, target):
        return factor * nn.functional.cross_entropy(output, target)

    check(HessianOperator(model, loss, data), threshold, factor * spectrum)


def test_preconditioned(small_case):
    operator = HessianOperator(*small_case)
    scale = torch.linspace(0.5, 2, operator.shape[0], dtype=torch.float64)
    preconditioned = PreconditionedOperator(operator, scale)
    spectrum = torch.linalg.eigvalsh(preconditioned.to_dense())
    check(preconditioned, float(spectrum[-4] + spectrum[-3]) / 2, spectrum)


def test_in_the_subspace_of_the_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    operator = HessianOperator(model, "cross_entropy", (torch.randn(9, 60).double(), torch.arange(9) % 3))
    spectrum = torch.linalg.eigvalsh(operator.to_dense())
    check(operator, float(spectrum[-6] + spectrum[-5]) / 2, spectrum)


def test_what_is_not_known_to_be_complete(quadratic):
    spectrum = torch.cat([torch.linspace(-1, 1, 60), torch.linspace(2, 9, 20)]).double()
    operator = HessianOperator(*quadratic(spectrum.tolist()))
    short = eigenvalues_above(operator, 1.5, max_products=15)
    assert not short.complete
    assert short.products <= 15 + 20
    near = eigenvalues_above(operator, 9.0 - 1e-9, tol=1e-3)
    assert not near.complete  # the largest is within its residual of the threshold
    only_just = eigenvalues_above(operator, 9.0 - 1e-9, tol=1e-14)
    assert (only_just.count, only_just.complete) == (1, True)


def test_zero_matrix(quadratic):
    found = eigenvalues_above(HessianOperator(*quadratic([0.0] * 5)), 0.1)
    assert (found.count, found.complete, found.converged, found.products) == (0, True, True, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"threshold": 1.0, "tol": 0.0}, "tol=0.0"),
        ({"threshold": 1.0, "max_products": 0}, "max_products=0"),
    ],
)
def test_bad_arguments_give_one_line(quadratic, arguments, message):
    with pytest.raises(FlatlibError, match=message):
        eigenvalues_above(HessianOperator(*quadratic([1.0, 2.0])), **arguments)
