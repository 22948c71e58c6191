"""Random images in the shape of a data set: a step takes as long on them, and nothing has to be downloaded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flatlib.config import RunConfig
from flatlib.training.data import KEYS, data_folder, raw

TEST = 10
"""Images to test on: no step takes them."""


@dataclass(frozen=True)
class Images:
    """A data set in numbers: the shape (C, H, W) of an image, classes, and how many images there are of each split."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


KNOWN = {
    "digits": Images((1, 8, 8), 10, 1000, 797),
    "mnist": Images((1, 28, 28), 10, 60_000, 10_000),
    "fashion_mnist": Images((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": Images((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Images((3, 32, 32), 100, 50_000, 10_000),
    "cifar10-jpeg": Images((3, 32, 32), 10, 10_000, 2_000),
}


def images_of(dataset: str, folder: Path | None = None) -> Images:
    """The numbers of a data set; a file of the reader's own is opened, the others need not be there.

    Raises:
        FlatlibError: if that file is not there or not readable.
    """
    if dataset in KNOWN:
        return KNOWN[dataset]
    arrays = raw(dataset, folder or data_folder())
    x = arrays["x_train"]
    channels = 1 if x.ndim == 3 else x.shape[3]
    classes = int(arrays["y_train"].max()) + 1
    return Images((channels, *x.shape[1:3]), classes, len(x), len(arrays["x_test"]))


def in_use(config: RunConfig, images: Images) -> Images:
    """What a run takes of a data set: the splits as long as it asks for."""
    return Images(images.shape, images.classes, config.train_size or images.train, config.test_size or images.test)


def stand_in(folder: Path, images: Images, count: int) -> Path:
    """A file of `count` random images to train on in that shape, made if it is not there. The last class is among them,
    which is how many classes a file is taken to have."""
    channels, height, width = images.shape
    path = folder / f"{channels}x{height}x{width}-{images.classes}-{count}.npz"
    if not path.exists():
        generator = np.random.default_rng(0)
        arrays = {}
        for name, size in (("train", count), ("test", TEST)):
            arrays[f"x_{name}"] = generator.integers(0, 256, (size, height, width, channels), dtype=np.uint8)
            arrays[f"y_{name}"] = (images.classes - 1 - np.arange(size)) % images.classes
        np.savez(path, **{key: arrays[key] for key in KEYS})
    return path
