import pytest
import torch
from torch import nn

from conftest import assert_untouched, snapshot
from flatlib.curvature import HessianOperator
from flatlib.device import PRECISION_SWITCHES


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_measuring_changes_nothing(model_case, batch_norm):
    model, loss, data = model_case
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = snapshot(model)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=30, shuffle=True)
    operator = HessianOperator(model, loss, loader, batch_norm=batch_norm, dtype=torch.float32)
    operator.matvec(operator.gradient())
    assert_untouched(model, before)


def test_interruption_changes_nothing(small_case):
    calls = []

    def failing(output, target):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return output.square().mean()

    before = snapshot(small_case.model)
    operator = HessianOperator(small_case.model, failing, small_case.data, chunk_size=12)
    with pytest.raises(KeyboardInterrupt):
        operator.gradient()
    assert_untouched(small_case.model, before)


def test_gradients_that_carry_a_graph(small_case):
    model, (x, _) = small_case.model, small_case.data
    gradients = torch.autograd.grad(model.eval()(x).sum(), [*model.parameters()])
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g * p
    first, second = (HessianOperator(*small_case) for _ in range(2))
    torch.testing.assert_close(first.to_dense(), second.to_dense(), rtol=0, atol=0)


def test_dtypes(small_case):
    model, loss, (x, y) = small_case
    expected = small_case.dense()
    operator = HessianOperator(model.float(), loss, (x.float(), y), dtype=torch.float64)
    assert operator.torch_dtype == torch.float64
    torch.testing.assert_close(operator.to_dense(), expected, rtol=1e-4, atol=1e-6)
    assert next(model.parameters()).dtype == torch.float32


def test_surrounding_modes_do_not_matter(small_case):
    model = small_case.model.float()
    data = small_case.data[0].float(), small_case.data[1]
    expected = HessianOperator(model, "mse", data).to_dense()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(HessianOperator(model, "mse", data).to_dense(), expected, rtol=0, atol=0)


def test_reduced_precision_is_restored(small_case):
    inside = []

    def watched(output, target):
        inside.append({switch.fp32_precision for switch in PRECISION_SWITCHES})
        return output.square().mean()

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        HessianOperator(small_case.model, watched, small_case.data).gradient()
        assert inside
        assert all(precisions == {"ieee"} for precisions in inside)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", before[1])
    finally:
        torch.set_float32_matmul_precision(before[0])


def test_wrappers_are_removed(small_case):
    model, *rest = small_case
    expected = HessianOperator(*small_case).to_dense()
    parallel = nn.DataParallel(model)
    for wrapped in (parallel, torch.compile(model), torch.compile(parallel)):
        operator = HessianOperator(wrapped, *rest)
        assert list(operator.parameters) == ["0.weight", "0.bias", "3.weight", "3.bias"]
        assert torch.equal(operator.to_dense(), expected)


def test_sparse_gradients_become_dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 2, sparse=True), nn.Flatten(), nn.Linear(6, 3))
    data = torch.arange(12).reshape(4, 3) % 7, torch.arange(4) % 3
    found = HessianOperator(model, "mse", data).to_dense()
    model[0].sparse = False
    assert torch.equal(found, HessianOperator(model, "mse", data).to_dense())
