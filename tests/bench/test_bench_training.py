"""The benchmark of training, at its smallest."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from flatlib.bench.training import benchmark, chosen, report
from flatlib.bench.tutorial import Pictures, tutorial, tutorial_epoch
from flatlib.cli import main
from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.training.data import load
from flatlib.training.models import build


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


def test_the_tutorials_loop_learns():
    config = RunConfig(train_size=500, batch_size=50, width=0.1, learning_rate=0.1)
    data = load(config, torch.device("cpu"))
    network = build(config, (1, 8, 8), data.classes)
    epoch = tutorial_epoch(network, config, data)
    before = cross_entropy(network(data.x_train), data.y_train).item()
    for _ in range(10):
        epoch()
    assert cross_entropy(network(data.x_train), data.y_train).item() < 0.5 * before


def test_a_loop_that_breaks_off_is_one_line():
    config = RunConfig(dataset="nowhere.npz")
    with tutorial(config, torch.device("cpu")) as epoch, pytest.raises(FlatlibError, match="ended early"):
        epoch(0)
