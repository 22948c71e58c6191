"""Data files of a few random images."""

from pathlib import Path

import numpy as np


def arrays(shape: tuple[int, ...] = (6, 6), **changed: np.ndarray) -> dict[str, np.ndarray]:
    """24 training and 12 test images in 4 classes, with some arrays replaced."""
    rng, sizes = np.random.default_rng(0), {"train": 24, "test": 12}
    images = {f"x_{split}": rng.integers(0, 256, (n, *shape), dtype=np.uint8) for split, n in sizes.items()}
    return images | {f"y_{split}": np.arange(n) % 4 for split, n in sizes.items()} | changed


def save(path: Path, shape: tuple[int, ...] = (6, 6), **changed: np.ndarray) -> str:
    """Write these images to a file, and return its name."""
    np.savez(path, **arrays(shape, **changed))
    return str(path)
