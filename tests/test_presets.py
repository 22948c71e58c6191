"""Every preset of every chapter as far as it goes without its training: valid settings, networks that fit the images,
one step of each kind of run on stand-in images."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chapter_pages import CHAPTERS, PRESETS, open_page

from flatlib.chapter import Chapter
from flatlib.config import RunConfig
from flatlib.data import KEYS
from flatlib.models import build
from flatlib.parameters import preset
from flatlib.records import table
from flatlib.train import last_update, train, updates_per_epoch

FILES = {f"{path.stem} {path.parent.name}": path for path in sorted(PRESETS.glob("*/*.yaml"))}
IMAGES = {  # shape of one, classes, training images
    "digits": ((1, 8, 8), 10, 1000),
    "mnist": ((1, 28, 28), 10, 60_000),
    "fashion_mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    "cifar10-jpeg": ((3, 32, 32), 10, 10_000),
}
STAND_IN = 120  # images; more than there are classes


@pytest.fixture(scope="module")
def asked():
    """What the page asks for at a preset, and its parameters: every call of `Chapter.run` gets a table in which each
    run reached its stop rule."""
    found = {}

    def of(name: str) -> SimpleNamespace:
        if name not in found:
            with pytest.MonkeyPatch.context() as patch:
                found[name] = dry_run(patch, FILES[name])
        return found[name]

    return of


def dry_run(patch, path) -> SimpleNamespace:
    calls = []

    def pretend(self, configs):
        calls.append(list(configs))
        return table(imagined(config) for config in calls[-1])

    patch.setattr(Chapter, "run", pretend)
    names = open_page(patch, path.stem, preset(path), to_its_runs=True)
    return SimpleNamespace(calls=calls, configs=[config for call in calls for config in call], parameters=names["p"])


def imagined(config: RunConfig) -> dict:
    """A line of a run that was not made, with what a page needs to choose its next ones by."""
    known = {"measures": {"validation_accuracy": 0.5}, "trajectory": {}, "provenance": {}}
    return {"run_id": config.run_id, "config": config.to_json(), "status": "reached"} | known


def kinds(configs: list[RunConfig], **same) -> list[RunConfig]:
    """One configuration of each kind, once these settings are made the same."""
    return list(dict.fromkeys(replace(config, **same) for config in configs))


def test_every_preset_is_of_a_chapter_and_every_chapter_has_the_three_that_are_everywhere():
    found = {
        path.stem: {other.parent.name for other in FILES.values() if other.stem == path.stem} for path in FILES.values()
    }
    assert set(found) == set(CHAPTERS)
    for chapter, scales in found.items():
        assert scales >= {"smoke", "small", "paper"}, chapter


@pytest.mark.parametrize("name", FILES)
def test_every_run_of_every_preset_is_a_valid_configuration(asked, name):
    found, scale = asked(name), FILES[name].parent.name
    assert found.parameters.preset == scale, "its records would be written under another name"
    for call in found.calls:
        assert len({config.run_id for config in call}) == len(call)
    assert len(found.configs) > 10
    assert len({config.seed for config in found.configs}) >= 5
    assert ({config.dataset for config in found.configs} == {"digits"}) == (scale == "smoke"), "smoke is offline"


@pytest.mark.parametrize("name", FILES)
def test_every_run_of_every_preset_has_the_images_it_asks_for_and_can_end(asked, name):
    for config in kinds(asked(name).configs, seed=0, learning_rate=0.1):
        images = IMAGES[config.dataset][2]
        used = config.train_size or images
        assert max(used + (config.validation_size or 0), config.measure_size) <= images
        assert config.batch_size <= used
        last_update(config, updates_per_epoch(config, SimpleNamespace(x_train=range(used))))


@pytest.mark.parametrize("name", FILES)
def test_every_network_of_every_preset_fits_its_images(asked, name):
    measured = {"measures": ("performance",), "track": (), "track_every": None, "track_time": None}
    for config in kinds([RunConfig(**shape_of(config)) for config in asked(name).configs], **measured):
        shape, classes, _ = IMAGES[config.dataset]
        with torch.device("meta"):
            outputs = build(config, shape, classes)(torch.empty(2, *shape))
        assert outputs.shape == (2, classes)


def shape_of(config: RunConfig) -> dict:
    """The settings that make a network."""
    return {name: getattr(config, name) for name in ("dataset", "model", "width", "depth", "activation", "dropout")}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A data folder with a few random images of every data set's shape."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, (shape, classes, _) in IMAGES.items():
        images = generator.integers(0, 256, (STAND_IN, *shape[1:], *shape[:1]), dtype=np.uint8)
        labels = np.arange(STAND_IN) % classes
        np.savez(folder / f"{name}.npz", **dict(zip(KEYS, (images, labels) * 2, strict=True)))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_one_step_of_every_kind_of_run_of_every_preset(asked, stand_ins, name):
    for config in kinds([cut_down(config) for config in asked(name).configs]):
        done = train(config, device="cpu", data=stand_ins)
        assert done.status != "diverged"
        assert done.updates == 1


def cut_down(config: RunConfig) -> RunConfig:
    """The same kind of run on few images in one batch, a narrow network, one step, no curvature."""
    little = {"train_size": 16, "test_size": 8, "batch_size": 0, "width": min(config.width, 0.03), "seed": 0}
    little |= {"validation_size": config.validation_size and 8, "microbatch": config.microbatch and 8}
    little |= {"learning_rate": 1e-3, "averaging_learning_rate": config.averaging_learning_rate and 1e-3}
    little |= {"max_epochs": 1, "max_updates": config.max_updates and 1, "check_every": None}
    untracked = {"track": (), "track_every": None, "track_time": None}
    return replace(config, **little, **untracked, measures=("performance",), matched_loss=None)
