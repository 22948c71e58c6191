"""Every preset of every chapter, without its training: valid settings, networks that fit the images, one step."""

import functools
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from chapter_pages import CHAPTERS, PRESETS
from flatlib.book.chapter import Chapter
from flatlib.book.parameters import preset
from flatlib.config import RunConfig
from flatlib.runs.estimate import IMAGES
from flatlib.training.train import last_update, train, updates_per_epoch

FILES = {f"{path.stem} {path.parent.name}": path for path in sorted(PRESETS.glob("*/*.yaml"))}
UNTRACKED = {"measures": ("performance",), "track": (), "track_every": None, "track_time": None, "seed": 0}


@functools.cache
def runs_of(name: str) -> list[RunConfig]:
    """Return the runs of a preset; where a chapter tunes, with those that its tuning runs may choose."""
    chapter = Chapter.at_preset(FILES[name].stem, FILES[name].parent.name)
    return chapter.requests() + chapter.chosen_later()


def kinds(configs: Iterable[RunConfig], **same) -> list[RunConfig]:
    """Return one configuration of each kind, with these settings made equal."""
    return list(dict.fromkeys(replace(config, **same) for config in configs))


def test_every_chapter_has_common_presets():
    assert {path.stem for path in FILES.values()} == set(CHAPTERS)
    assert FILES.keys() >= {f"{chapter} {scale}" for chapter in CHAPTERS for scale in ("smoke", "small", "paper")}
    for path in FILES.values():
        assert preset(path)["preset"] == path.parent.name, "its records would be written under another name"


@pytest.mark.parametrize("name", FILES)
def test_runs_differ_and_have_seeds(name):
    configs = runs_of(name)
    assert len({config.run_id for config in configs}) == len(configs) > 10
    assert len({config.seed for config in configs}) >= 5
    assert ({config.dataset for config in configs} == {"digits"}) == name.endswith(" smoke"), "smoke is offline"


@pytest.mark.parametrize("name", FILES)
def test_runs_have_images_and_an_end(name):
    for config in kinds(runs_of(name), seed=0, learning_rate=0.1):
        images = IMAGES[config.dataset][0]
        used = config.train_size or images
        assert max(used + (config.validation_size or 0), config.measure_size) <= images
        assert config.batch_size <= used
        last_update(config, updates_per_epoch(config, SimpleNamespace(x_train=range(used))))


@pytest.fixture(scope="module")
def random_images(tmp_path_factory):
    """Return a data folder with a few random images of every data set's shape."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, (_, (channels, height, width), classes) in IMAGES.items():
        arrays = {}
        for part, count in (("train", 120), ("test", 120)):  # more than there are classes
            arrays[f"x_{part}"] = generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
            arrays[f"y_{part}"] = (classes - 1 - np.arange(count)) % classes
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_run_makes_a_step(random_images, name):
    for config in kinds(cut_down(config) for config in runs_of(name)):
        done = train(config, device="cpu", data=random_images)
        assert done.status != "diverged"
        assert done.updates == 1


def cut_down(config: RunConfig) -> RunConfig:
    """Return the same kind of run on few images in one batch, a narrow network, one step, no curvature."""
    little = {"train_size": 16, "test_size": 8, "batch_size": 0, "width": min(config.width, 0.03)}
    little |= {"validation_size": config.validation_size and 8, "microbatch": config.microbatch and 8}
    little |= {"learning_rate": 1e-3, "averaging_learning_rate": config.averaging_learning_rate and 1e-3}
    little |= {"max_epochs": 1, "max_updates": config.max_updates and 1, "check_every": None}
    return replace(config, **little, **UNTRACKED, matched_loss=None, matched_loss_every=None)
