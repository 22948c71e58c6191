"""Files of data sets: torchvision's formats and ``.npz``, made up here; nothing is downloaded."""

import io
import os
import pickle
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from torchvision.datasets import cifar

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.training import data
from flatlib.training.data import KEYS, TORCHVISION, load
from image_files import arrays, save

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
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", None)
    monkeypatch.setattr(cifar, "download_and_extract_archive", None)


@pytest.mark.parametrize("name", MNIST)
def test_idx_files(tmp_path, name):
    folder = tmp_path / MNIST[name] / "raw"
    folder.mkdir(parents=True)
    images = {split: RNG.integers(0, 256, (n, 28, 28), np.uint8) for split, n in (("train", 30), ("t10k", 10))}
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


def test_one_download_at_a_time(tmp_path, monkeypatch):
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


def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(
        torchvision.datasets, "MNIST", lambda *_, train, download: SimpleNamespace(data=[train], targets=[0])
    )
    assert data.download("mnist", tmp_path)["x_train"].tolist() == [True]
    assert not list(tmp_path.iterdir())


def test_bytes_are_scaled(tmp_path):
    for kind, largest in ((np.uint8, 1.0), (np.float64, 255.0), (">f4", 255.0), (np.int32, 255.0)):
        images = {key: np.full((n, 6, 6), 255).astype(kind) for key, n in (("x_train", 24), ("x_test", 12))}
        path = tmp_path / f"{np.dtype(kind).name}{kind == '>f4'}.npz"
        name = save(path, **images, y_train=(np.arange(24) % 4).astype(">i8"))
        config = RunConfig(dataset=name, batch_size=4, standardize=False)
        assert load(config, CPU).x_train.max().item() == largest


def test_file_replaces_download(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLIB_DATA", str(tmp_path))
    loaded = []
    for name in ("mnist", "cifar10-jpeg", "own.npz"):
        save((tmp_path / name).with_suffix(".npz"))
        loaded.append(load(RunConfig(dataset=name, batch_size=4), CPU))
    assert len({each.fingerprint for each in loaded}) == 1
    assert loaded[0].x_train.shape == (24, 1, 6, 6)


MALFORMED = {
    "pickled images": {"x_train": np.full((24, 6, 6), None)},
    "pickled labels": {"y_test": np.array([{}] * 12)},
    "flat images": {"x_train": np.ones((24, 36))},
    "fewer labels than images": {"y_train": np.arange(23) % 4},
    "labels one-hot": {"y_train": np.eye(4)[np.arange(24) % 4]},
    "no images": {"x_test": np.ones((0, 6, 6)), "y_test": np.ones(0, int)},
    "images without pixels": {"x_train": np.ones((24, 0, 6)), "x_test": np.ones((12, 0, 6))},
    "labels not whole": {"y_train": np.arange(24) % 4 + 0.5},
    "labels below zero": {"y_test": np.arange(12) % 4 - 1},
    "a class only in the test": {"y_test": np.arange(12) % 5},
    "not finite": {"x_train": np.full((24, 6, 6), np.nan)},
    "beyond float32": {"x_train": np.full((24, 6, 6), 1e300)},
    "text": {"x_train": np.full((24, 6, 6), "a")},
    "complex": {"x_train": np.ones((24, 6, 6), complex)},
    "splits of other sizes": {"x_test": np.ones((12, 7, 7), np.uint8)},
    "splits of other colours": {"x_test": np.ones((12, 6, 6, 3), np.uint8)},
    "bytes against floats": {"x_test": np.ones((12, 6, 6), np.float32)},
}


@pytest.mark.parametrize("changed", MALFORMED.values(), ids=MALFORMED)
def test_malformed_archive(tmp_path, changed):
    with pytest.raises(FlatlibError, match=r"own\.npz: ") as error:
        load(RunConfig(dataset=save(tmp_path / "own.npz", **changed), batch_size=4), CPU)
    assert "\n" not in str(error.value)


def saved(write, *values, **named) -> bytes:
    write(file := io.BytesIO(), *values, **named)
    return file.getvalue()


def overwritten(content: bytes) -> bytes:
    return content[:200] + b"\1" * 200 + content[400:]


BROKEN = {
    "empty": b"",
    "text": b"not an archive",
    "cut": saved(np.savez, **arrays())[:700],
    "overwritten": overwritten(saved(np.savez, **arrays())),
    "compressed and overwritten": overwritten(saved(np.savez_compressed, **arrays())),
    "one array, not an archive": saved(np.save, np.ones(3)),
    "a pickle": pickle.dumps({"x_train": 1}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(FlatlibError, match=r"own\.npz: not a readable \.npz") as error:
        load(RunConfig(dataset=str(tmp_path / "own.npz")), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", KEYS)
def test_missing_array(tmp_path, key):
    np.savez(tmp_path / "own.npz", **{name: value for name, value in arrays().items() if name != key})
    with pytest.raises(FlatlibError, match="needs the arrays .*" + key):
        load(RunConfig(dataset=str(tmp_path / "own.npz")), CPU)


@pytest.mark.parametrize("name", ["own.npz", "cifar10-jpeg"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FlatlibError, match=f"{tmp_path}.*put it there") as error:
        load(RunConfig(dataset=name), CPU, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading\nmore"), OSError()])
def test_no_network(tmp_path, monkeypatch, name, error):
    monkeypatch.setattr(torchvision.datasets, TORCHVISION[name], Mock(side_effect=error))
    with pytest.raises(FlatlibError, match=f"dataset {name}: .* put {name}.npz there") as raised:
        load(RunConfig(dataset=name), CPU, tmp_path)
    assert "\n" not in str(raised.value)
