import pytest
import torch

from flatlib.curvature import per_layer
from flatlib.errors import FlatlibError


def test_agrees_with_the_dense_blocks(model_case, request):
    table = per_layer(*model_case, tol=1e-5)
    assert table.index.name == "block"
    assert list(table.index) == [name for name, _ in model_case.model.named_parameters()]
    sizes = [p.numel() for p in model_case.model.parameters()]
    for i, (rows, (_, row)) in enumerate(zip(model_case.dense().split(sizes), table.iterrows(), strict=True)):
        block = rows.split(sizes, dim=1)[i]
        largest = float(torch.linalg.eigvalsh(block)[-1])
        assert row["size"] == len(block)
        assert row["eigenvalue"] == pytest.approx(largest, rel=1e-6, abs=1e-12)
        assert row["converged"]
        assert row["residual"] <= 1e-5 * abs(largest) + 1e-12
        if row["trace_exact"]:
            assert row["trace"] == pytest.approx(float(block.trace()), rel=1e-10, abs=1e-14)
        assert abs(row["trace"] - float(block.trace())) <= 5 * row["trace_standard_error"] + 1e-12
    assert table["trace_exact"].iloc[-1]
    assert table["trace_exact"].all() == (request.node.callspec.id == "relu")
    assert table.attrs == {"batch_norm": "eval", "examples": 23, "dtype": "torch.float64"}


def test_blocks_by_module(small_case):
    model, loss, (x, y) = small_case
    table = per_layer(model, loss, ((x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)), block="module")
    H = small_case.dense()
    assert table["size"].to_dict() == {"0": 45, "3": 18}
    for row, block in zip(table.itertuples(), (H[:45, :45], H[45:, 45:]), strict=True):
        assert row.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-3)
        assert abs(row.trace - float(block.trace())) <= 5 * row.trace_standard_error + 1e-12


def test_arguments_are_the_operators(small_case):
    table = per_layer(*small_case, parameters="3.*", dtype=torch.float32, probes=10, chunk_size=9)
    assert list(table.index) == ["3.weight", "3.bias"]
    assert not table["trace_exact"].any()
    assert (table["products"] > 10).all()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.BatchNorm1d(3)).double()
    modes = [per_layer(model, "mse", small_case.data, batch_norm=mode)["trace"] for mode in ("eval", "train")]
    assert modes[0]["0.weight"] != pytest.approx(modes[1]["0.weight"], rel=0.1)


def test_bad_arguments(small_case):
    for options, message in (({"block": "stage"}, "tensor, module"), ({"probes": 1}, "at least 2")):
        with pytest.raises(FlatlibError, match=message):
            per_layer(*small_case, **options)
