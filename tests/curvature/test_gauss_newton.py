import copy

import pytest
import torch
from torch import nn

from flatlib.curvature import GaussNewtonOperator, HessianOperator, top_eigenvalues
from flatlib.errors import FlatlibError
from flatlib.losses import resolve_loss


def dense_gauss_newton(operator, data):
    """J^T A J from one derivative after another, of the operator's own model in its own mode."""
    model = copy.deepcopy(operator.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    output = model(data[0])
    rows = [torch.autograd.grad(f, parameters, retain_graph=True, materialize_grads=True) for f in output.flatten()]
    J = torch.stack([torch.cat([piece.flatten() for piece in row]) for row in rows])
    loss = resolve_loss(operator.loss)
    outputs = output.detach().flatten()
    A = torch.autograd.functional.hessian(lambda flat: loss(flat.view_as(output), data[1]), outputs)
    return J.T @ A @ J


@pytest.mark.parametrize("chunk_size", [None, 12])
def test_agrees_with_the_dense_matrix(case, chunk_size):
    operator = GaussNewtonOperator(case.model, case.loss, case.data, chunk_size=chunk_size)
    G = operator.to_dense()
    torch.testing.assert_close(G, dense_gauss_newton(operator, case.data), rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(G)[0] > -1e-12
    assert (G - case.dense()).norm() > 1e-3 * G.norm()
    top = top_eigenvalues(operator, tol=1e-5)
    assert float(top.values) == pytest.approx(float(torch.linalg.eigvalsh(G)[-1]), rel=1e-6)
    hessian = HessianOperator(case.model, case.loss, case.data)
    torch.testing.assert_close(operator.gradient(), hessian.gradient())


def test_what_it_refuses(small_case):
    operator = GaussNewtonOperator(small_case.model, small_case.loss, small_case.data)
    with pytest.raises(FlatlibError, match='use engine="lanczos"'):
        top_eigenvalues(operator, engine="pyhessian")
    with pytest.raises(FlatlibError, match="the loss is"):
        GaussNewtonOperator(small_case.model, lambda o, t: o.mean() * torch.inf, small_case.data).gradient()
    with pytest.raises(FlatlibError, match="gradient is not finite"):
        GaussNewtonOperator(small_case.model, lambda o, t: (o - o.detach()).sqrt().mean(), small_case.data).gradient()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_train_mode_batch_norm(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 2
    operator = GaussNewtonOperator(model, loss, data, batch_norm="train")
    G = operator.to_dense()
    torch.testing.assert_close(G, dense_gauss_newton(operator, data), rtol=1e-9, atol=1e-12)
    assert (G - GaussNewtonOperator(model, loss, data).to_dense()).norm() > 0.1 * G.norm()
