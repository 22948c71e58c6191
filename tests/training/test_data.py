"""Data sets: the right images, balanced, standardized and split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.utils import parameters_to_vector

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.measures import evaluate
from flatlib.training import data
from flatlib.training.data import load
from flatlib.training.subsets import balanced, kept_out
from flatlib.training.train import train
from image_files import save

CPU = torch.device("cpu")
TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3, track=("train_loss",), track_every=2)


def digits(**settings) -> data.Data:
    return load(RunConfig(**settings), CPU)


def from_file(path: Path, **changed) -> data.Data:
    return load(RunConfig(dataset=save(path, **changed), batch_size=4), CPU)


def test_digits():
    loaded = digits(standardize=False)
    assert loaded.x_train.shape == (1000, 1, 8, 8)
    assert loaded.x_test.shape == (797, 1, 8, 8)
    assert (loaded.classes, loaded.x_train.dtype, loaded.y_train.dtype) == (10, torch.float32, torch.int64)
    images = torch.cat([loaded.x_train, loaded.x_test]).flatten(1) * 16
    ours = sorted(zip(images.tolist(), torch.cat([loaded.y_train, loaded.y_test]).tolist(), strict=True))
    theirs = load_digits(return_X_y=True)
    assert ours == sorted(zip(theirs[0].tolist(), theirs[1].tolist(), strict=True))


def test_standardization():
    plain, scaled = (digits(train_size=300, standardize=on) for on in (False, True))
    assert scaled.x_train.mean().item() == pytest.approx(0, abs=1e-6)
    assert scaled.x_train.std().item() == pytest.approx(1, abs=1e-6)
    mean, std = plain.x_train.mean(), plain.x_train.std()
    torch.testing.assert_close(scaled.x_test, (plain.x_test - mean) / std)
    assert abs(scaled.x_test.mean().item()) > 1e-4


@pytest.mark.parametrize("standardize", [True, False])
def test_input_scale(standardize):
    settings = {"train_size": 300, "validation_size": 50, "standardize": standardize}
    plain, closer = digits(**settings), digits(**settings, input_scale=0.25)
    for one, other in zip((*plain.validation, *pairs_of(plain)), (*closer.validation, *pairs_of(closer)), strict=True):
        assert torch.equal(other, one / 4 if one.is_floating_point() else one)
    assert closer.fingerprint == plain.fingerprint


def pairs_of(loaded):
    return loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test


def test_channels_are_standardized(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
    colour[..., 2] = 7
    loaded = from_file(tmp_path / "own.npz", x_train=colour, x_test=colour[:12])
    assert loaded.x_train.shape == (24, 3, 6, 6)
    torch.testing.assert_close(loaded.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.x_train.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 5, 10, 200, 207])
def test_balanced_subsets(size):
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    chosen = balanced(labels, size, "train_size")
    counts = np.bincount(labels[chosen], minlength=10)
    assert (len(chosen), counts.min(), counts.max()) == (size, size // 10, -(-size // 10))
    assert (np.diff(chosen) > 0).all(), "not in the original order"
    assert set(chosen) <= set(balanced(labels, size + 1, "train_size"))
    small_class = np.array([0] * 10 + [1] * 2)
    assert np.bincount(small_class[balanced(small_class, 8, "train_size")]).tolist() == [6, 2]


@pytest.mark.parametrize(
    "settings",
    [
        *({"train_size": 1001}, {"test_size": 798}, {"batch_size": 1001}, {"validation_size": 1}),
        *({"validation_size": 101, "train_size": 900}, {"validation_size": 1, "train_size": 1000}),
    ],
    ids=str,
)
def test_too_few_images_are_an_error(settings):
    name, size = next(iter(settings.items()))
    with pytest.raises(FlatlibError, match=f"^{name}: {size} "):
        digits(**settings)


def test_fingerprint(tmp_path):
    reference = digits(train_size=100).fingerprint
    same = [{"standardize": False}, {"seed": 7, "batch_size": 3}, {"model": "small_cnn"}]
    assert {digits(train_size=100, **settings).fingerprint for settings in same} == {reference}
    others = [digits(train_size=101).fingerprint, digits(train_size=100, test_size=5).fingerprint]
    others += [from_file(tmp_path / "a.npz").fingerprint]
    others += [from_file(tmp_path / "b.npz", y_test=np.arange(12) % 3).fingerprint]
    assert len({reference, *others}) == 5


def test_channels_last_for_convolutions(tmp_path):
    config = RunConfig(dataset=save(tmp_path / "c.npz", shape=(6, 6, 3)), batch_size=4)
    flat = load(config, CPU)
    assert flat.x_test.is_contiguous()
    for model in ("small_cnn", "vgg11", "vgg11_bn"):
        images = load(replace(config, model=model), CPU).x_test
        assert torch.equal(images, flat.x_test)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_measured_examples(tmp_path, size):
    loaded = from_file(tmp_path / "own.npz")
    x, y = loaded.measured(size)
    n = min(size, 24)
    places = [i * 24 // n for i in range(n)]
    assert torch.equal(x, loaded.x_train[places])
    assert torch.equal(y, loaded.y_train[places])


def pixels(images: torch.Tensor) -> list[tuple]:
    """The digits' pixels, whole numbers up to 16, of images in [0, 1]."""
    return [tuple(image) for image in (images.flatten(1) * 16).round().int().tolist()]


@pytest.mark.parametrize(("train_size", "validation_size"), [(100, 50), (103, 44), (3, 1), (900, 100)])
def test_validation_indices(train_size, validation_size):
    labels = np.random.default_rng(0).integers(0, 10, 1000) if train_size < 900 else np.arange(1000) % 10
    trained = balanced(labels, train_size, "train_size")
    kept = kept_out(labels, train_size, validation_size)
    assert len(kept) == validation_size
    assert not set(kept) & set(trained)
    assert (np.diff(kept) > 0).all()
    together = np.bincount(labels[np.concatenate([trained, kept])], minlength=10)
    assert together.max() - together.min() <= 1
    counts = np.bincount(labels[kept], minlength=10)
    assert counts.max() - counts.min() <= 1 + bool(train_size % 10)


@pytest.mark.parametrize("standardize", [False, True])
def test_validation_images(standardize):
    config = RunConfig(train_size=300, standardize=standardize)
    plain, split = load(config, CPU), load(replace(config, validation_size=100), CPU)
    assert plain.validation is None
    assert split.fingerprint == plain.fingerprint
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(plain, name), getattr(split, name))
    images, labels = split.validation
    assert (images.dtype, labels.dtype, len(images)) == (torch.float32, torch.int64, 100)
    raw, more = (load(replace(config, train_size=size, standardize=False), CPU) for size in (300, 400))
    images = images * raw.x_train.std() + raw.x_train.mean() if standardize else images
    added = dict(zip(pixels(more.x_train), more.y_train.tolist(), strict=True))
    assert [added[image] for image in pixels(images)] == labels.tolist()
    assert not set(pixels(images)) & set(pixels(raw.x_train))


def test_drawn_images():
    first, one, same, other = (
        load(RunConfig(train_size=205, validation_size=50, data_seed=seed, standardize=False), CPU)
        for seed in (None, 3, 3, 4)
    )
    assert one.fingerprint == same.fingerprint
    assert len({first.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert torch.equal(first.y_test, one.y_test)
    for drawn in (one, other):
        counts = torch.bincount(drawn.y_train)
        assert set(counts.tolist()) == {20, 21}
        kept = drawn.validation[0].flatten(1)
        assert torch.cdist(drawn.x_train.flatten(1), kept).min() > 0.1
    shared = (torch.cdist(one.x_train.flatten(1), other.x_train.flatten(1)).min(1).values < 1e-3).sum()
    assert 0 < shared < 100


def test_contiguous_images(tmp_path):
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1, 0, 1])
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = RunConfig(
        **{"dataset": str(tmp_path / "own.npz"), "train_size": 4, "test_size": 3, "validation_size": 2},
        **{"subset": "contiguous", "standardize": False, "pixels": "symmetric", "batch_size": 2},
    )
    data = load(config, CPU)
    for x, y, expected in (
        (data.x_train, data.y_train, [0, 1, 2, 3]),
        (data.x_test, data.y_test, [0, 1, 2]),
        (*data.validation, [8, 9]),
    ):
        assert x[:, 0, 0, 0].tolist() == pytest.approx([2 * i / 255 - 1 for i in expected])
        assert y.tolist() == labels[expected].tolist()


@pytest.mark.parametrize(
    "settings", [{"pixels": "symmetric"}, {"data_seed": 1}, {"data_seed": 1, "train_size": 50, "subset": "contiguous"}]
)
def test_settings_without_effect(settings):
    with pytest.raises(FlatlibError, match=next(iter(settings))):
        RunConfig(**settings)


def test_validation_changes_no_training():
    plain, split = train(TINY, device="cpu"), train(replace(TINY, validation_size=50), device="cpu")
    assert torch.equal(parameters_to_vector(plain.model.parameters()), parameters_to_vector(split.model.parameters()))
    assert plain.trajectory == split.trajectory
    more = {name: value for name, value in split.measures.items() if name not in plain.measures}
    assert {name: split.measures[name] for name in plain.measures} == plain.measures
    loss, accuracy = evaluate(split.model, *split.data.validation)
    assert more == {"validation_loss": loss, "validation_accuracy": accuracy}
    assert accuracy != split.measures["test_accuracy"]
