"""The benchmark of training, at its smallest."""

import json

import pytest
import torch

from flatlib.bench.training import Pictures, benchmark, chosen, report
from flatlib.cli import main
from flatlib.config import RunConfig
from flatlib.data import load
from flatlib.errors import FlatlibError


def test_both_loops_are_timed_in_turn_and_the_rate_is_a_share():
    entries = benchmark(["mlp", "small_cnn"], "digits", "cpu", 200, 3)
    table = report(entries)
    assert list(table.index) == ["mlp", "small_cnn"]
    assert all(len(times) == 3 for entry in entries for times in entry["seconds"].values())
    assert (table["tutorial / flatlib"] > 1).all()
    assert ((table["share of the matrix rate"] > 0) & (table["share of the matrix rate"] < 2)).all()
    # Six operations for each weight and image: two forward, four backward, but none back to the pixels.
    assert entries[0]["operations"] == 200 * (6 * (200 * 200 + 200 * 10) + 4 * 64 * 200)


def test_the_pictures_are_the_images():
    data = load(RunConfig(train_size=20, test_size=10, batch_size=10), torch.device("cpu"))
    pictures = Pictures(data)
    assert len(pictures) == 20
    image, label = pictures[3]
    assert image.shape == (1, 8, 8)
    assert label == int(data.y_train[3])
    spread = torch.corrcoef(torch.stack([image.flatten(), data.x_train[3].flatten()]))
    assert spread[0, 1] > 0.999


def test_the_command(tmp_path, capsys):
    output = tmp_path / "training.json"
    arguments = ["--cases", "mlp", "--dataset", "digits", "--repeats", "1", "--images", "100", "--device", "cpu"]
    arguments += ["--batch", "50", "--precision", "bfloat16"]
    assert main(["bench", "training", *arguments, "--output", str(output)]) == 0
    (entry,) = json.loads(output.read_text())["entries"]
    assert (entry["network"], entry["batch"], entry["precision"]) == ("mlp", 50, "bfloat16")
    assert "tutorial / flatlib" in capsys.readouterr().out
    assert main(["bench", "training", "--images", "0"]) == 2
    assert main(["bench", "training", "--batch", "0"]) == 2
    assert main(["bench", "training", *arguments[:-1], "int8"]) == 2
    assert chosen("*") == ["mlp", "small_cnn", "vgg11/4"]
    with pytest.raises(FlatlibError, match="unknown name 'resnet'"):
        chosen("mlp,resnet")
