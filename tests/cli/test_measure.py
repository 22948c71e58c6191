"""`flatlib measure`: a reader's file, a table, a JSON file; and one line for everything that can be wrong with it."""

import json
import subprocess
import sys

import pytest
import torch

from flatlib.cli import main
from flatlib.cli.user_model import MEASURABLE, examples, load
from flatlib.curvature import HessianOperator, top_eigenvalues

MINE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

@dataclass
class Settings:
    width: int = 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
x, y = torch.randn(20, 4), torch.arange(20) % 3

def load():
    return model, (x, y)

def loader():
    return model, DataLoader(TensorDataset(x, y), batch_size=7)

def dataset():
    return model, TensorDataset(x, y)

def number():
    return model, 5

def late():
    def batches():
        from neighbour import data
        yield data
    return model, batches()

def alone():
    return model

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    (tmp_path / "neighbour.py").write_text("import torch\ndata = torch.randn(5, 4), torch.arange(5) % 3\n")
    return path


def test_table_and_file_agree(mine, tmp_path, capsys):
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


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["all"], {*MEASURABLE} - {"density"}), (["margin,trace", "weight_norm"], {"margin", "trace", "weight_norm"})],
)
def test_measures_by_name(mine, capsys, names, expected):
    assert main(["measure", f"{mine}:load", "--measures", *names, "--dtype", "float64", "--device", "cpu"]) == 0
    rows = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert rows & {*MEASURABLE} == expected


def test_batch_size_of_the_training(mine, tmp_path, capsys):
    found = {}
    for size in ("5", "20", "21"):
        output = tmp_path / "mine.json"
        names = ["--measures", "batch_sharpness", "critical_sharpness", "--batch-size", size, "--output", str(output)]
        assert main(["measure", f"{mine}:load", *names, "--device", "cpu"]) == 0
        written = json.loads(output.read_text())
        assert written["batch_size"] == int(size)
        assert (
            0 < written["measures"]["critical_sharpness"]["error"] < written["measures"]["critical_sharpness"]["value"]
        )
        found[size] = written["measures"]["batch_sharpness"]
    assert found["5"]["error"] > 0
    assert (found["20"]["error"], found["20"]["exact"]) == (0.0, True)
    assert found["21"]["value"] is None  # more than there are examples
    capsys.readouterr()


def test_first_product_precedes_the_clock():
    """It imports sympy, which takes longer than a small network's measures."""
    code = (
        "import sys, torch; from flatlib.cli.user_model import measured; from flatlib.measures import Checkpoint\n"
        "mine = Checkpoint(model=torch.nn.Linear(2, 2), examples=(torch.eye(2), torch.tensor([0, 1])))\n"
        "measured([], mine); assert 'sympy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_may_import_a_neighbour(mine, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    x, _ = examples(load(f"{mine}:late")[1], None, torch.device("cpu"))
    assert x.shape == (5, 4)


@pytest.mark.parametrize("function", ["load", "loader", "dataset"])
def test_data_may_be_a_loader(mine, function):
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
        (["{}:number"], "the data must be (inputs, targets) or batches of these, got int"),
        (["{}:broken"], "failed: KeyError: 'weights'"),
        (["{}:load", "--measures", "flatness"], "unknown name 'flatness'; allowed: train_loss"),
        (["{}:load", "--loss", "hinge"], 'loss "hinge" is unknown'),
        (["{}:load", "--batch-norm", "off"], 'batch_norm="off" is unknown'),
        (["{}:load", "--examples", "0"], "--examples: at least 1, got 0"),
        (["{}:load", "--tolerance", "0"], "tol=0.0 must be positive"),
        (["{}:load", "--measures", "batch_sharpness", "--batch-size", "0"], "batch_size=0 is not between 1 and the 20"),
        (["{}:load", "--output", "{}/out.json"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(mine, capsys, arguments, message):
    assert main(["measure", *(argument.format(mine) for argument in arguments), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("flatlib: ")
    assert captured.out == "" or "--output" in arguments, "nothing is printed before the measures"
