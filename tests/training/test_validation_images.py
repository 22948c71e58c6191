"""Images kept out of training to choose settings by: which they are, and that training knows nothing of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.measures import evaluate
from flatlib.training.data import balanced, kept_out, load
from flatlib.training.train import train

CPU = torch.device("cpu")
TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3, track=("train_loss",), track_every=2)


def pixels(images: torch.Tensor) -> list[tuple]:
    """The digits' pixels, whole numbers up to 16, of images in [0, 1]."""
    return [tuple(image) for image in (images.flatten(1) * 16).round().int().tolist()]


@pytest.mark.parametrize(("train_size", "validation_size"), [(100, 50), (103, 44), (3, 1), (900, 100)])
def test_validation_images_are_balanced_in_order_and_never_trained_on(train_size, validation_size):
    labels = np.random.default_rng(0).integers(0, 10, 1000) if train_size < 900 else np.arange(1000) % 10
    trained = balanced(labels, train_size, 10, "train_size")
    kept = kept_out(labels, train_size, validation_size, 10)
    assert len(kept) == validation_size
    assert not set(kept) & set(trained)
    assert (np.diff(kept) > 0).all()
    together = np.bincount(labels[np.concatenate([trained, kept])], minlength=10)
    assert together.max() - together.min() <= 1
    counts = np.bincount(labels[kept], minlength=10)
    assert counts.max() - counts.min() <= 1 + bool(train_size % 10)


@pytest.mark.parametrize("standardize", [False, True])
def test_they_come_with_their_labels_in_the_units_of_the_training_images(standardize):
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


@pytest.mark.parametrize(
    ("train_size", "validation_size", "used"), [(None, 1, "all"), (900, 101, "900"), (1000, 1, "1000")]
)
def test_more_than_are_left_is_refused(train_size, validation_size, used):
    with pytest.raises(FlatlibError, match=f"{validation_size} requested, .* has 1000 to train on, {used} in use"):
        load(RunConfig(train_size=train_size, validation_size=validation_size), CPU)


def test_training_and_the_other_measures_keep_their_bits_and_the_validation_split_is_measured():
    plain, split = train(TINY, device="cpu"), train(replace(TINY, validation_size=50), device="cpu")
    assert torch.equal(parameters_to_vector(plain.model.parameters()), parameters_to_vector(split.model.parameters()))
    assert plain.trajectory == split.trajectory
    more = {name: value for name, value in split.measures.items() if name not in plain.measures}
    assert {name: split.measures[name] for name in plain.measures} == plain.measures
    loss, accuracy = evaluate(split.model, *split.data.validation)
    assert more == {"validation_loss": loss, "validation_accuracy": accuracy}
    assert accuracy != split.measures["test_accuracy"]
