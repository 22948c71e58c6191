"""Data sets by name and by file: the right images, balanced and standardised, or one line that says what is wrong."""

import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from sklearn.datasets import load_digits

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.training import data
from flatlib.training.data import KEYS, TORCHVISION, balanced, load

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_images_of_an_earlier_test():
    data._load.cache_clear()


def digits(**settings) -> data.Data:
    return load(RunConfig(**settings), CPU)


def arrays(**changed) -> dict[str, np.ndarray]:
    """24 training and 12 test images of 6 x 6 in 4 classes, with some arrays replaced."""
    rng = np.random.default_rng(0)
    images = {
        f"x_{split}": rng.integers(0, 256, (n, 6, 6), dtype=np.uint8) for split, n in (("train", 24), ("test", 12))
    }
    return images | {"y_train": np.arange(24) % 4, "y_test": np.arange(12) % 4} | changed


def from_file(folder: Path, name: str = "own.npz", **changed) -> data.Data:
    np.savez(folder / name, **arrays(**changed))
    return load(RunConfig(dataset=str(folder / name), batch_size=4), CPU, folder)


def test_digits_are_scikit_learns():
    loaded = digits(standardize=False)
    assert loaded.x_train.shape == (1000, 1, 8, 8)
    assert loaded.x_test.shape == (797, 1, 8, 8)
    assert (loaded.classes, loaded.x_train.dtype, loaded.y_train.dtype) == (10, torch.float32, torch.int64)
    images = torch.cat([loaded.x_train, loaded.x_test]).flatten(1) * 16
    ours = sorted(zip(images.tolist(), torch.cat([loaded.y_train, loaded.y_test]).tolist(), strict=True))
    theirs = load_digits(return_X_y=True)
    assert ours == sorted(zip(theirs[0].tolist(), theirs[1].tolist(), strict=True))


def test_standardised_by_the_training_images_in_use():
    plain, scaled = (digits(train_size=300, standardize=on) for on in (False, True))
    assert scaled.x_train.mean().item() == pytest.approx(0, abs=1e-6)
    assert scaled.x_train.std().item() == pytest.approx(1, abs=1e-6)
    mean, std = plain.x_train.mean(), plain.x_train.std()
    torch.testing.assert_close(scaled.x_test, (plain.x_test - mean) / std)
    assert abs(scaled.x_test.mean().item()) > 1e-4


def test_every_channel_is_standardised_and_a_constant_one_stays_finite(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
    colour[..., 2] = 7
    loaded = from_file(tmp_path, x_train=colour, x_test=colour[:12])
    assert loaded.x_train.shape == (24, 3, 6, 6)
    torch.testing.assert_close(loaded.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.x_train.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "smallest", "largest"), [(10, 1, 1), (200, 20, 20), (207, 20, 21), (1, 0, 1), (5, 0, 1)]
)
def test_subsets_are_balanced_and_nested(size, smallest, largest):
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    chosen = balanced(labels, size, 10, "train_size")
    counts = np.bincount(labels[chosen], minlength=10)
    assert (len(chosen), counts.min(), counts.max()) == (size, smallest, largest)
    assert (np.diff(chosen) > 0).all(), "not in the original order"
    assert set(chosen) <= set(balanced(labels, size + 1, 10, "train_size"))


def test_a_class_that_runs_out_is_made_up_for():
    labels = np.array([0] * 10 + [1] * 2)
    assert np.bincount(labels[balanced(labels, 8, 2, "train_size")]).tolist() == [6, 2]


@pytest.mark.parametrize(
    ("settings", "field"), [({"train_size": 1001}, "train_size"), ({"test_size": 798}, "test_size")]
)
def test_more_images_than_there_are(settings, field):
    with pytest.raises(FlatlibError, match=f"{field}: .* requested, the data set has"):
        digits(**settings)


def test_a_batch_of_more_than_all_images():
    with pytest.raises(FlatlibError, match="batch_size: 1001 is more than the 1000"):
        digits(batch_size=1001)


def test_the_fingerprint_is_that_of_the_images(tmp_path):
    reference = digits(train_size=100).fingerprint
    same = [{"standardize": False}, {"seed": 7, "batch_size": 3}, {"model": "small_cnn"}]
    assert {digits(train_size=100, **settings).fingerprint for settings in same} == {reference}
    others = [digits(train_size=101).fingerprint, digits(train_size=100, test_size=5).fingerprint]
    others += [
        from_file(tmp_path, "a.npz").fingerprint,
        from_file(tmp_path, "b.npz", y_test=np.arange(12) % 3).fingerprint,
    ]
    assert len({reference, *others}) == 5


@pytest.mark.parametrize("model", ["small_cnn", "vgg11", "vgg11_bn"])
def test_convolutions_get_channels_last_with_the_same_values(tmp_path, model):
    np.savez(
        tmp_path / "c.npz",
        **arrays(x_train=np.ones((24, 6, 6, 3)), x_test=np.random.default_rng(0).random((12, 6, 6, 3))),
    )
    config = RunConfig(dataset="c.npz", batch_size=4)
    flat, conv = (
        load(config if m is None else RunConfig(dataset="c.npz", batch_size=4, model=m), CPU, tmp_path)
        for m in (None, model)
    )
    assert torch.equal(flat.x_test, conv.x_test)
    assert flat.x_test.is_contiguous()
    assert conv.x_test.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_measured_examples_are_evenly_strided(tmp_path, size):
    loaded = from_file(tmp_path)
    x, y = loaded.measured(size)
    n = min(size, 24)
    places = [i * 24 // n for i in range(n)]
    assert torch.equal(x, loaded.x_train[places])
    assert torch.equal(y, loaded.y_train[places])


def test_a_file_in_the_data_folder_stands_in_for_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLIB_DATA", str(tmp_path))
    for name in ("mnist.npz", "cifar10-jpeg.npz", "own.npz"):
        np.savez(tmp_path / name, **arrays())
    loaded = [digits(dataset=name, batch_size=4) for name in ("mnist", "cifar10-jpeg", "own.npz")]
    assert len({each.fingerprint for each in loaded}) == 1
    assert loaded[0].x_train.shape == (24, 1, 6, 6)


def test_bytes_are_scaled_and_other_numbers_are_not(tmp_path):
    config = RunConfig(dataset=str(tmp_path / "x.npz"), batch_size=4, standardize=False)
    for kind, largest in ((np.uint8, 1.0), (np.float64, 255.0), (">f4", 255.0), (np.int32, 255.0)):
        images = {key: np.full((n, 6, 6), 255).astype(kind) for key, n in (("x_train", 24), ("x_test", 12))}
        np.savez(tmp_path / "x.npz", **arrays(**images, y_train=(np.arange(24) % 4).astype(">i8")))
        data._load.cache_clear()
        assert load(config, CPU).x_train.max().item() == largest


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


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("changed", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_archive_is_one_line(tmp_path, changed):
    with pytest.raises(FlatlibError, match=r"own\.npz: ") as error:
        from_file(tmp_path, **changed)
    one_line(error)


def archive(folder: Path, save=np.savez) -> bytes:
    save(folder / "good.npz", **arrays())
    return (folder / "good.npz").read_bytes()


def overwritten(content: bytes) -> bytes:
    return content[:200] + b"\1" * 200 + content[400:]


BROKEN = {
    "empty": lambda folder: b"",
    "text": lambda folder: b"not an archive",
    "cut": lambda folder: archive(folder)[:700],
    "overwritten": lambda folder: overwritten(archive(folder)),
    "compressed and overwritten": lambda folder: overwritten(archive(folder, np.savez_compressed)),
    "one array, not an archive": lambda folder: (
        np.save(folder / "a.npy", np.ones(3)) or (folder / "a.npy").read_bytes()
    ),
    "a pickle": lambda folder: pickle.dumps({"x_train": 1}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content(tmp_path))
    with pytest.raises(FlatlibError, match=r"own\.npz: not a readable \.npz") as error:
        load(RunConfig(dataset=str(tmp_path / "own.npz")), CPU)
    one_line(error)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_array_is_named(tmp_path, key):
    np.savez(tmp_path / "own.npz", **{name: value for name, value in arrays().items() if name != key})
    with pytest.raises(FlatlibError, match="needs the arrays .*" + key):
        load(RunConfig(dataset=str(tmp_path / "own.npz")), CPU)


@pytest.mark.parametrize("name", ["own.npz", "cifar10-jpeg"])
def test_an_absent_file_says_where_it_was_looked_for(tmp_path, name):
    with pytest.raises(FlatlibError, match=f"{tmp_path}.*put it there") as error:
        load(RunConfig(dataset=name), CPU, tmp_path)
    one_line(error)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading\nmore"), OSError()])
def test_no_network_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, name, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.datasets, TORCHVISION[name], refuse)
    with pytest.raises(FlatlibError, match=f"dataset {name}: .* put {name}.npz there") as raised:
        load(RunConfig(dataset=name), CPU, tmp_path)
    one_line(raised)
