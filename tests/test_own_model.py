"""`flatlib measure`: a reader's file, a table, a JSON file; and one line for everything that can be wrong with it."""

import json

import pytest
import torch

from flatlib.cli import main
from flatlib.curvature import HessianOperator, top_eigenvalues
from flatlib.own_model import MEASURABLE, examples, load

MINE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
x, y = torch.randn(20, 4), torch.arange(20) % 3

def load():
    return model, (x, y)

def loader():
    return model, DataLoader(TensorDataset(x, y), batch_size=7)

def dataset():
    return model, TensorDataset(x, y)

def alone():
    return model

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_the_table_and_the_file_hold_the_same_numbers(mine, tmp_path, capsys):
    output = tmp_path / "out" / "mine.json"
    assert main(["measure", f"{mine}:load", "--device", "cpu", "--dtype", "float64", "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    model, data = load(f"{mine}:load")
    found = top_eigenvalues(HessianOperator(model, "cross_entropy", data, dtype=torch.float64), tol=1e-6)
    assert written["measures"]["lambda_max"]["value"] == pytest.approx(float(found.values[0]), rel=1e-3)
    assert written["measures"]["lambda_max"]["error"] <= 1e-3 * written["measures"]["lambda_max"]["value"]
    assert written["measures"]["trace"]["exact"] is True
    assert (written["examples"], written["parameters"], written["dtype"]) == (20, 63, "torch.float64")
    printed = capsys.readouterr().out
    assert f"{written['measures']['lambda_max']['value']:.4g}" in printed
    assert "63 parameters, 20 examples" in printed


def test_every_measure_that_can_be_taken_of_any_model(mine, capsys):
    assert main(["measure", f"{mine}:load", "--measures", "all", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in MEASURABLE)


@pytest.mark.parametrize("function", ["load", "loader", "dataset"])
def test_data_come_as_a_pair_a_loader_or_a_data_set(mine, function):
    _, data = load(f"{mine}:{function}")
    x, y = examples(data, 9, torch.device("cpu"))
    assert torch.equal(x, load(f"{mine}:load")[1][0][:9])
    assert len(y) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "expected FILE.py:FUNCTION"),
        (["nowhere.py:load"], "nowhere.py: no such file"),
        (["{}:nothing"], "has no function nothing"),
        (["{}:alone"], "must return (model, data)"),
        (["{}:broken"], "failed with KeyError: 'weights'"),
        (["{}:load", "--measures", "flatness"], "unknown name 'flatness'; allowed: train_loss, lambda_max"),
        (["{}:load", "--loss", "hinge"], 'loss "hinge" is unknown'),
        (["{}:load", "--batch-norm", "off"], 'batch_norm="off" is unknown'),
        (["{}:load", "--examples", "0"], "--examples: at least 1, got 0"),
        (["{}:load", "--tolerance", "0"], "tol=0.0 must be positive"),
    ],
)
def test_bad_input_is_one_line(mine, capsys, arguments, message):
    assert main(["measure", arguments[0].format(mine), *arguments[1:], "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("flatlib: ")
    assert captured.out == ""
