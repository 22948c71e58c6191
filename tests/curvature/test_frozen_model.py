import copy

import pytest
import torch
from torch import nn

from flatlib.curvature import HessianOperator
from flatlib.device import PRECISION_SWITCHES


def snapshot(model):
    """All that a measurement must leave alone."""
    return {
        "modes": [m.training for m in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grads": [torch.empty(0) if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "rng": torch.get_rng_state(),
    }


def assert_untouched(model, before):
    after = snapshot(model)
    assert [after.pop(key) for key in ("modes", "requires_grad")] == [
        before.pop(key) for key in ("modes", "requires_grad")
    ]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_measuring_changes_nothing(model_case, batch_norm):
    next(model_case.model.children()).eval()
    next(model_case.model.parameters()).requires_grad_(False)
    for p in model_case.model.parameters():
        p.grad = torch.ones_like(p)
    before = snapshot(model_case.model)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*model_case.data), batch_size=30, shuffle=True)
    operator = HessianOperator(model_case.model, model_case.loss, loader, batch_norm=batch_norm, dtype=torch.float32)
    operator.matvec(operator.gradient())
    assert_untouched(model_case.model, before)


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
    small_case.model.eval()
    gradients = torch.autograd.grad(small_case.model(small_case.data[0]).sum(), [*small_case.model.parameters()])
    for p, g in zip(small_case.model.parameters(), gradients, strict=True):
        p.grad = g * p
    first, second = (HessianOperator(small_case.model, "mse", small_case.data) for _ in range(2))
    torch.testing.assert_close(first.to_dense(), second.to_dense(), rtol=0, atol=0)


def test_dtypes(small_case):
    single = copy.deepcopy(small_case.model).float()
    x, y = small_case.data
    operator = HessianOperator(single, small_case.loss, (x.float(), y), dtype=torch.float64)
    assert operator.torch_dtype == torch.float64
    torch.testing.assert_close(operator.to_dense(), small_case.dense(), rtol=1e-4, atol=1e-6)
    assert next(single.parameters()).dtype == torch.float32


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
    expected = HessianOperator(small_case.model, small_case.loss, small_case.data).to_dense()
    parallel = nn.DataParallel(small_case.model)
    for wrapped in (parallel, torch.compile(small_case.model), torch.compile(parallel)):
        operator = HessianOperator(wrapped, small_case.loss, small_case.data)
        assert list(operator.parameters) == ["0.weight", "0.bias", "3.weight", "3.bias"]
        assert torch.equal(operator.to_dense(), expected)


def test_sparse_gradients_become_dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 2, sparse=True), nn.Flatten(), nn.Linear(6, 3))
    data = torch.arange(12).reshape(4, 3) % 7, torch.arange(4) % 3
    found = HessianOperator(model, "mse", data).to_dense()
    model[0].sparse = False
    assert torch.equal(found, HessianOperator(model, "mse", data).to_dense())
