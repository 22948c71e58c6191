"""torchvision's data sets, from tiny files in torchvision's own formats: nothing is downloaded."""

import os
import pickle
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets
from torchvision.datasets import cifar

from flatlib.config import RunConfig
from flatlib.training import data
from flatlib.training.data import load

CPU = torch.device("cpu")
RNG = np.random.default_rng(5)
MNIST = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
CIFAR = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch", "labels"),
    "cifar100": ("cifar-100-python", ["train"], "test", "fine_labels"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Made-up files have other checksums than the real ones; asking the network is an error."""
    data._load.cache_clear()
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", None)
    monkeypatch.setattr(cifar, "download_and_extract_archive", None)


@pytest.mark.parametrize("name", MNIST)
def test_idx_files(tmp_path, name):
    folder = tmp_path / MNIST[name] / "raw"
    folder.mkdir(parents=True)
    images = {
        "train": RNG.integers(0, 256, (30, 28, 28), np.uint8),
        "t10k": RNG.integers(0, 256, (10, 28, 28), np.uint8),
    }
    for split, x in images.items():
        labels = (np.arange(len(x)) % 10).astype(np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, *x.shape) + x.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(x)) + labels.tobytes())
    loaded = load(RunConfig(dataset=name, batch_size=10, standardize=False), CPU, tmp_path)
    assert torch.equal(loaded.x_train, torch.from_numpy(images["train"])[:, None] / 255)
    assert torch.equal(loaded.x_test, torch.from_numpy(images["t10k"])[:, None] / 255)
    assert loaded.y_train.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3
    assert loaded.classes == 10


@pytest.mark.parametrize("name", CIFAR)
def test_pickled_batches(tmp_path, name):
    base, parts, last, key = CIFAR[name]
    folder = tmp_path / base
    folder.mkdir()
    pixels = {part: RNG.integers(0, 256, (10, 3 * 32 * 32), np.uint8) for part in (*parts, last)}
    for part, x in pixels.items():
        (folder / part).write_bytes(pickle.dumps({"data": x, key: list(range(10))}))
    for meta in ("batches.meta", "meta"):
        (folder / meta).write_bytes(pickle.dumps({"label_names": [], "fine_label_names": []}))
    loaded = load(RunConfig(dataset=name, batch_size=10, standardize=False, model="vgg11"), CPU, tmp_path)
    expected = np.concatenate([pixels[part] for part in parts]).reshape(-1, 3, 32, 32)
    assert torch.equal(loaded.x_train, torch.from_numpy(expected) / 255)
    assert torch.equal(loaded.x_test, torch.from_numpy(pixels[last].reshape(-1, 3, 32, 32)) / 255)
    assert loaded.y_train.tolist() == list(range(10)) * len(parts)


def test_one_process_downloads_and_the_other_waits_for_it(tmp_path, monkeypatch):
    under_way, overlaps = [], []

    def slow(folder, *, train, download):
        overlaps.append(len(under_way))
        under_way.append(train)
        time.sleep(0.02)
        under_way.pop()
        return SimpleNamespace(data=[0], targets=[0])

    monkeypatch.setattr(torchvision.datasets, "MNIST", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: data.download("mnist", tmp_path / "new"), range(4)))
    assert overlaps == [0] * 8


def test_a_data_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(
        torchvision.datasets, "MNIST", lambda *_, train, download: SimpleNamespace(data=[train], targets=[0])
    )
    assert data.download("mnist", tmp_path)["x_train"].tolist() == [True]
    assert not list(tmp_path.iterdir())
