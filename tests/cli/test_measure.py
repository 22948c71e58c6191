"""`flatlib measure`: a reader's file, a table, a JSON file; and one line for everything that can be wrong with it."""

import json
import subprocess
import sys
import time
from itertools import count

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from flatlib.cli import main, user_model
from flatlib.cli.user_data import read
from flatlib.cli.user_model import MEASURABLE, UserFiles, load
from flatlib.curvature import HessianOperator, top_eigenvalues, trace

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

def leaving():
    import sys
    sys.exit("no weights")

scale = 1.0

def scaled():
    global scale
    scale = 2.0
    return model, (x, y)

def loss(output, target):
    return scale * nn.functional.cross_entropy(output, target)

def failing(output, target):
    return output["logits"]

def regression():
    return nn.Linear(4, 1), (x, x[:, :1] + 1.0)

weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
print("run once")
"""
X, Y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3


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
    model, data = load(f"{mine}:load", UserFiles())
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
    [
        (["all"], {*MEASURABLE} - {"density", "jacobian_norms"}),
        (["margin,trace", "weight_norm"], {"margin", "trace", "weight_norm"}),
    ],
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


def test_small_numbers_are_written_in_full(mine, tmp_path, monkeypatch):
    """And what is no number as null."""
    output = tmp_path / "mine.json"
    numbers = {"trace": 1.2345678901234567e-13, "trace_standard_error": float("nan"), "trace_exact": False}
    monkeypatch.setattr(user_model, "measure", lambda names, checkpoint, keep=False: numbers)
    assert main(["measure", f"{mine}:load", "--measures", "trace", "--device", "cpu", "--output", str(output)]) == 0
    found = json.loads(output.read_text())["measures"]["trace"]
    assert (found["value"], found["error"], found["exact"]) == (1.2345678901234567e-13, None, False)


def test_first_use_precedes_the_clock(mine, monkeypatch):
    """Imports and caches that a measure needs once are no part of its seconds."""
    used = set()

    def slow_at_first(names, checkpoint, keep=False):
        time.sleep(0.0 if names[0] in used else 0.5)
        used.update(names)
        return {names[0]: 1.0}

    monkeypatch.setattr(user_model, "measure", slow_at_first)
    checkpoint = user_model.Checkpoint(model=torch.nn.Linear(4, 3), examples=(X, Y))
    found = dict(user_model.measured(["trace", "margin"], checkpoint))
    assert all(rows[name]["seconds"] < 0.25 for name, rows in found.items())


def test_first_product_precedes_the_clock():
    """It imports sympy, which takes longer than a small network's measures."""
    code = (
        "import sys, torch; from flatlib.cli.user_model import measured; from flatlib.measures import Checkpoint\n"
        "mine = Checkpoint(model=torch.nn.Linear(2, 2), examples=(torch.eye(2), torch.tensor([0, 1])))\n"
        "list(measured([], mine)); assert 'sympy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--measures", "trace", "weight_norm", "{}:load", "--device", "cpu"],
        ["--device", "cpu", "--measures", "trace,weight_norm", "{}:load"],
        ["--device", "cpu", "{}:load", "--measures", "trace", "weight_norm"],
    ],
)
def test_target_stands_anywhere(mine, capsys, arguments):
    assert main(["measure", *(argument.format(mine) for argument in arguments)]) == 0
    assert {"trace", "weight_norm"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measures", "trace"], "the following arguments are required: FILE.py:FUNCTION"),
        (["--measures", "trace", "a.py:f", "--device", "cpu", "b.py:f"], "at a time, got a.py:f and b.py:f"),
        (["b.py:f", "--measures", "trace", "a.py:f"], "at a time, got b.py:f and a.py:f"),
        (["a.py:f", "--batch-norm", "off"], "argument --batch-norm: invalid choice: 'off'"),
        (["a.py:f", "--examples", "many"], "argument --examples: invalid int value: 'many'"),
        (["a.py:f", "--speed", "7"], "unrecognized arguments: --speed 7"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(["measure", *arguments])
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:9]) == ("", 1, "flatlib: ")
    assert message in err
    assert "--help)" in err


def test_loss_of_the_same_file_shares_what_it_defines(mine, tmp_path, capsys):
    """The loss is scaled by what the function of the model has set."""
    output = tmp_path / "mine.json"
    options = ["--measures", "trace", "--dtype", "float64", "--device", "cpu", "--output", str(output)]
    assert main(["measure", f"{mine}:scaled", "--loss", f"{mine.parent}/./mine.py:loss", *options]) == 0
    assert capsys.readouterr().out.count("run once") == 1
    model, data = load(f"{mine}:load", UserFiles())
    written = json.loads(output.read_text())
    expected = 2 * trace(HessianOperator(model, "cross_entropy", data, dtype=torch.float64)).value
    assert written["measures"]["trace"]["value"] == pytest.approx(expected)
    assert written["loss"].endswith("mine.py:loss")


def test_loss_may_be_a_module_of_another_file(mine, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(
        "from torch import nn\nimport torch\nloss = nn.CrossEntropyLoss(weight=torch.tensor([1., 2., 3.]))\n"
    )
    options = ["--measures", "gradient_norm", "--dtype", "float64", "--device", "cpu"]
    printed = []
    for name in (f"{other}:loss", f"{mine}:weighted"):
        assert main(["measure", f"{mine}:load", "--loss", name, *options]) == 0
        printed.append(capsys.readouterr().out.splitlines()[-2].split()[:2])
    assert printed[0] == printed[1]


def test_a_refused_measure_loses_no_other(mine, tmp_path, capsys):
    output = tmp_path / "mine.json"
    names = ["--measures", "margin", "trace", "softmax_jacobian_norm", "--loss", "mse"]
    assert main(["measure", f"{mine}:regression", *names, "--device", "cpu", "--output", str(output)]) == 2
    out, err = capsys.readouterr()
    assert "trace" in out
    assert "margin" not in out
    (line,) = [line for line in err.splitlines() if line.startswith("flatlib: margin")]
    written = json.loads(output.read_text())
    assert written["measures"]["trace"]["value"] > 0
    assert line.startswith(f"flatlib: {', '.join(written['refused'])}: {written['refused']['margin']}")


def test_one_reason_is_one_line(mine, capsys):
    """With the line of the user's file where it failed."""
    assert main(["measure", f"{mine}:load", "--loss", f"{mine}:failing", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out.strip() == "run once", "no empty table"
    line = err.splitlines()[-1]
    assert line.startswith("flatlib: lambda_max, lambda_min, trace: the loss fails on outputs of shape (20, 3)")
    number = 1 + MINE.splitlines().index('    return output["logits"]')
    assert line.endswith(f"(mine.py, line {number})")


def test_loss_that_was_not_chosen_is_named(mine, capsys):
    with mine.open("a") as file:
        file.write("def one_output():\n    return nn.Linear(4, 1), (x, y)\n")
    assert main(["measure", f"{mine}:one_output", "--measures", "trace", "--device", "cpu"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("flatlib: trace: ")
    assert "no --loss was given, so it is cross_entropy: --loss mse is for regression" in line


def test_an_interrupt_keeps_what_was_measured(mine, tmp_path, capsys, monkeypatch):
    def interrupted(names, checkpoint, keep=False):
        if names == ["trace"] and checkpoint.model.training and len(checkpoint.examples[0]) == 20:
            raise KeyboardInterrupt
        return {names[0]: 1.0}

    monkeypatch.setattr(user_model, "measure", interrupted)
    output = tmp_path / "mine.json"
    names = ["--measures", "weight_norm", "trace", "--device", "cpu", "--output", str(output)]
    assert main(["measure", f"{mine}:load", *names]) == 130
    out, err = capsys.readouterr()
    assert "weight_norm" in out
    assert err.splitlines()[-1] == "flatlib: interrupted"
    assert list(json.loads(output.read_text())["measures"]) == ["weight_norm"]


def test_data_may_import_a_neighbour(mine, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (x, _), examples = read(load(f"{mine}:late", UserFiles())[1], None)
    assert (x.shape, examples) == ((5, 4), 5)


@pytest.mark.parametrize("function", ["load", "loader", "dataset"])
def test_data_may_be_a_loader(mine, function):
    files = UserFiles()
    (x, y), examples = read(load(f"{mine}:{function}", files)[1], 9)
    assert torch.equal(x, load(f"{mine}:load", files)[1][0][:9])
    assert len(y) == examples == 9


class Stream(IterableDataset):
    """The examples again and again, one at a time, which counts those it gave; a thousand count as endless."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        for i in range(1000):
            self.given += 1
            yield X[i % 20], int(Y[i % 20])
        pytest.fail("read without end")


def generator_of(stream, size):
    """Yield batches of a stream that does not end."""
    examples = iter(stream)
    while True:
        x, y = zip(*(next(examples) for _ in range(size)), strict=True)
        yield torch.stack(x), torch.tensor(y)


@pytest.mark.parametrize(
    ("data", "given"),
    [
        (lambda stream: stream, 300),
        (lambda stream: DataLoader(stream, batch_size=64), 320),
        (lambda stream: DataLoader(stream, batch_size=None), 300),
        (lambda stream: generator_of(stream, 100), 300),
        (lambda stream: iter(stream), 300),
    ],
    ids=["stream", "loader", "unbatched", "batches", "generator"],
)
def test_an_endless_stream_is_read_no_further(data, given):
    stream = Stream()
    (x, y), examples = read(data(stream), 300)
    assert (examples, stream.given) == (300, given)
    assert torch.equal(x, X.repeat(15, 1))
    assert torch.equal(y, Y.repeat(15))


def test_a_data_set_is_read_no_further():
    given = []

    class Images(TensorDataset):
        def __getitem__(self, index):
            given.append(index)
            return super().__getitem__(index)

    assert read(Images(X, Y), 7)[1] == 7
    assert given == list(range(7))
    assert read(Images(X, Y), 70)[1] == 20


def test_examples_read_are_counted(capsys, monkeypatch):
    """So that a stream without end is seen to be one."""
    monkeypatch.setattr("tqdm.std.time", count().__next__)
    read(([(X, Y)] * 50), None)
    shown = capsys.readouterr().err
    assert "reading: 20 examples" in shown
    assert "reading: 1000 examples" in shown


@pytest.mark.parametrize(
    "data",
    [(X.double().numpy(), Y.numpy()), [(X[:9].numpy(), Y[:9].numpy()), (X[9:].numpy(), Y[9:].numpy())]],
    ids=["pair", "batches"],
)
def test_arrays_are_tensors(data):
    (x, y), examples = read(data, None)
    torch.testing.assert_close(x.float(), X)
    assert torch.equal(y, Y)
    assert examples == 20


def test_arrays_of_another_dtype_are_measured(mine, capsys):
    with mine.open("a") as file:
        file.write("def arrays():\n    return model, (x.double().numpy(), y.int().numpy())\n")
    printed = []
    for function in ("load", "arrays"):
        assert main(["measure", f"{mine}:{function}", "--measures", "train_loss,trace", "--device", "cpu"]) == 0
        printed.append([line.split()[:2] for line in capsys.readouterr().out.splitlines()])
    assert printed[0] == printed[1]


def test_other_batches_stay_as_they_are():
    batches = [{"image": X[:12].numpy(), "label": Y[:12]}, {"image": X[12:].numpy(), "label": Y[12:]}]
    found, examples = read(iter(batches), 15)
    assert [batch["label"].tolist() for batch in found] == [Y[:12].tolist(), Y[12:15].tolist()]
    torch.testing.assert_close(found[1]["image"], X[12:15])
    assert examples == 15
    pair = [[X[:5], X[5:10], Y[:5]]]
    assert read(iter(pair), None) == (pair, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine"], "expected FILE.py:FUNCTION"),
        (["nowhere.py:load"], "nowhere.py: no such file"),
        (["{}:nothing"], "has no function nothing"),
        (["{}:alone"], "must return (model, data)"),
        (["{}:number"], "the data must be (inputs, targets) or batches of these, got int"),
        (["{}:broken"], "failed: KeyError: 'weights' (mine.py, line "),
        (["{}:leaving"], "failed: SystemExit: no weights (mine.py, line "),
        (["{}:load", "--measures", "flatness"], "unknown name 'flatness'; allowed: train_loss"),
        (["{}:load", "--measures", ","], "unknown name ''; allowed: train_loss"),
        (["{}:load", "--loss", "hinge"], "--loss: unknown name 'hinge'; allowed: cross_entropy, mse, squared, or FILE"),
        (["{}:load", "--loss", "{}:hinge"], "mine.py: has no function hinge"),
        (["{}:load", "--loss", "nowhere.py:hinge"], "nowhere.py: no such file"),
        (["{}:load", "--examples", "0"], "--examples: at least 1, got 0"),
        (["{}:load", "--tolerance", "0"], "--tolerance: a positive number, got 0.0"),
        (["{}:load", "--measures", "batch_sharpness", "--batch-size", "0"], "batch_size=0 is not between 1 and the 20"),
        (["{}:load", "--output", "{}/out.json"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(mine, capsys, arguments, message):
    assert main(["measure", *(argument.format(mine) for argument in arguments), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("flatlib: ")
    assert captured.out in ("", "run once\n"), "nothing is printed before the measures"
