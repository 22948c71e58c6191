"""Data sets by name, as tensors that stay on the device.

"digits" is embedded (scikit-learn's 1797 images). The others are looked up in the data folder: ``NAME.npz`` there
replaces a download, otherwise torchvision downloads to it on first use. A path to any ``.npz`` works as well.
"""

import contextlib
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from flatlib.config import RunConfig
from flatlib.errors import FlatlibError
from flatlib.training.subsets import balanced, first, kept_out

KEYS = ("x_train", "y_train", "x_test", "y_test")
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Images (N, C, H, W) in float32 and labels (N,) in int64, on one device.

    Attributes:
        x_train: Training images.
        y_train: Their labels.
        x_test: Test images.
        y_test: Their labels.
        classes: Number of classes.
        fingerprint: Hash of the pixels and labels in use before standardization: two records that share it were
            trained and tested on the same images.
        validation: Images and labels of the training set that are excluded from training, if any.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    fingerprint: str
    validation: tuple[Tensor, Tensor] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    def measured(self, size: int) -> tuple[Tensor, Tensor]:
        """Return `size` evenly strided training examples (all, if there are fewer), whose curvature is measured."""
        total = len(self.x_train)
        size = min(size, total)
        chosen = torch.arange(size, device=self.x_train.device) * total // size
        return self.x_train[chosen], self.y_train[chosen]


def data_folder() -> Path:
    """Return ``FLATLIB_DATA``, or ``flatlib`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("FLATLIB_DATA") or cache / "flatlib")


def load(config: RunConfig, device: torch.device, folder: Path | None = None) -> Data:
    """Return the data of a configuration, from `folder` or the default data folder.

    Raises:
        FlatlibError: If the data set is missing or malformed, or smaller than the configuration needs.
    """
    layout = torch.contiguous_format if config.model in ("softmax_regression", "mlp") else torch.channels_last
    fields = (
        *("dataset", "train_size", "test_size", "validation_size", "data_seed", "subset"),
        *("standardize", "pixels", "input_scale"),
    )
    data = _load(*(getattr(config, name) for name in fields), layout, device, Path(folder or data_folder()))
    if config.batch_size > len(data.x_train):
        raise FlatlibError(
            f"batch_size: {config.batch_size} is more than the {len(data.x_train)} training images of {config.dataset}"
        )
    return data


@functools.lru_cache(maxsize=2)  # a worker trains many configurations on the same images
def _load(
    name: str,
    train_size: int | None,
    test_size: int | None,
    validation_size: int | None,
    data_seed: int | None,
    subset: str,
    standardize: bool,
    pixels: str,
    input_scale: float,
    layout: torch.memory_format,  # convolutions run 1.3 times faster on a CPU when the channels come last
    device: torch.device,
    folder: Path,
) -> Data:
    arrays = raw(name, folder)
    kept: Arrays = {}
    labels = {split: arrays[f"y_{split}"] for split in ("train", "test")}
    take = balanced if subset == "balanced" else first
    order = None if data_seed is None else np.random.default_rng(data_seed).permutation(len(labels["train"]))
    chosen = {"train": take(labels["train"], train_size, "train_size", order)}
    chosen |= {"test": take(labels["test"], test_size, "test_size")}
    for split, indices in chosen.items():
        kept |= {key: np.ascontiguousarray(arrays[key][indices]) for key in (f"x_{split}", f"y_{split}")}
    digest = hashlib.sha256()
    for key in KEYS:
        digest.update(f"{key}{kept[key].shape}{kept[key].dtype}".encode() + kept[key].tobytes())
    if validation_size is not None:
        others = kept_out(labels["train"], train_size, validation_size, subset, order)
        kept |= {"x_validation": arrays["x_train"][others], "y_validation": arrays["y_train"][others]}
    images = {key.removeprefix("x_"): to_images(value) for key, value in kept.items() if key.startswith("x_")}
    if standardize:
        mean = images["train"].double().mean(dim=(0, 2, 3), keepdim=True)
        scale = images["train"].double().std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-12)
        images = {split: ((x.double() - mean) / scale).float() for split, x in images.items()}
    elif pixels == "symmetric":
        images = {split: 2 * x - 1 for split, x in images.items()}
    if input_scale != 1:
        images = {split: x * input_scale for split, x in images.items()}
    pairs = {
        split: (
            x.to(device, memory_format=layout),
            torch.from_numpy(kept[f"y_{split}"]).long().to(device),
        )
        for split, x in images.items()
    }
    classes = int(arrays["y_train"].max()) + 1
    return Data(*pairs["train"], *pairs["test"], classes, digest.hexdigest()[:16], pairs.get("validation"))


def raw(name: str, folder: Path) -> Arrays:
    """Return the arrays of a data set as they are stored: images (N, H, W) or (N, H, W, C), integer labels (N,)."""
    if name == "digits":
        return digits()
    own = name.endswith(".npz")
    candidates = [Path(name).expanduser(), folder / name] if own else [folder / f"{name}.npz"]
    for path in candidates:
        if path.is_file():
            return read_npz(path)
    if name in TORCHVISION:
        return download(name, folder)
    raise FlatlibError(
        f"dataset {name}: no file {' or '.join(map(str, candidates))}; put it there or choose another data set"
    )


def digits() -> Arrays:
    """Return scikit-learn's handwritten digits, 8 x 8: 1000 for training and 797 for tests, in a fixed random order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 8, 8)
    labels = labels[order].astype(np.int64)
    return {"x_train": images[:1000], "y_train": labels[:1000], "x_test": images[1000:], "y_test": labels[1000:]}


def read_npz(path: Path) -> Arrays:
    """Return x_train, y_train, x_test, y_test of a NumPy archive, checked; pickled content is refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in KEYS}
    except KeyError:
        raise FlatlibError(f"{path}: needs the arrays {', '.join(KEYS)}") from None
    except Exception as error:  # NumPy's reader lets through whatever zip, zlib and its header parser raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FlatlibError(f"{path}: not a readable .npz of plain arrays ({reason})") from None
    arrays = {key: np.ascontiguousarray(value, value.dtype.newbyteorder("=")) for key, value in arrays.items()}
    for split in ("train", "test"):
        check_split(path, split, arrays[f"x_{split}"], arrays[f"y_{split}"])
    one, other = (f"{x.shape[1:]} {x.dtype}" for x in (arrays["x_train"], arrays["x_test"]))
    if one != other:
        raise FlatlibError(f"{path}: x_train and x_test differ in kind: {one} and {other}")
    if arrays["y_test"].max() > arrays["y_train"].max():
        raise FlatlibError(f"{path}: y_test has classes that y_train does not have")
    return arrays


def check_split(path: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    """Check for images (N, H, W[, C]) of real numbers that float32 can hold, each with a whole-number label."""
    if x.ndim not in (3, 4) or y.shape != x.shape[:1] or not x.size:
        raise FlatlibError(
            f"{path}: expected x_{split} (N, H, W[, C]) and y_{split} (N,), not empty; got {x.shape}, {y.shape}"
        )
    if x.dtype.kind not in "fiub":
        raise FlatlibError(f"{path}: x_{split} must hold real numbers, got {x.dtype}")
    if x.dtype.kind == "f" and not np.abs(x).max() <= np.finfo(np.float32).max:
        raise FlatlibError(f"{path}: x_{split} holds values that are not finite")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise FlatlibError(f"{path}: y_{split} must be whole numbers from 0, got {y.dtype}")


def download(name: str, folder: Path) -> Arrays:
    """Return torchvision's copy of a data set, downloaded on first use, by one process at a time."""
    import torchvision.datasets

    source = getattr(torchvision.datasets, TORCHVISION[name])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        read_only = not os.access(folder, os.W_OK)
        with contextlib.nullcontext() if read_only else FileLock(folder / ".download.lock"):
            train, test = (source(folder, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FlatlibError(
            f"dataset {name}: not in {folder} and it cannot be downloaded ({reason}); put {name}.npz there "
            f"({', '.join(KEYS)}) or connect to the network"
        ) from None
    arrays = {"x_train": train.data, "y_train": train.targets, "x_test": test.data, "y_test": test.targets}
    return {key: np.asarray(value) for key, value in arrays.items()}


def to_images(x: np.ndarray) -> Tensor:
    """Convert (N, H, W) or (N, H, W, C) to float32 (N, C, H, W); bytes are scaled to [0, 1]."""
    images = torch.from_numpy(x).float()
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images / 255 if x.dtype == np.uint8 else images
