"""Every preset of every chapter as far as it goes without its training: valid settings, networks that fit the images,
one step of each kind of run on stand-in images."""

import functools
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chapter_pages import CHAPTERS, PRESETS, ROOT

from flatlib.book.dry_run import Asked
from flatlib.book.dry_run import asked as what_is_asked
from flatlib.book.execute import settings
from flatlib.config import RunConfig
from flatlib.runs.plan.memory import network_of
from flatlib.runs.plan.stand_ins import KNOWN, stand_in
from flatlib.training.models import build
from flatlib.training.train import last_update, train, updates_per_epoch

FILES = {f"{path.stem} {path.parent.name}": path for path in sorted(PRESETS.glob("*/*.yaml"))}
STAND_IN = 120  # images; more than there are classes


@functools.cache
def asked(name: str) -> Asked:
    """What the page asks for at a preset, and its parameters."""
    chapter, scale = FILES[name].stem, FILES[name].parent.name
    return what_is_asked(ROOT, chapter, settings(ROOT, chapter, scale, {}))


def kinds(configs: Iterable[RunConfig], **same) -> list[RunConfig]:
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
def test_every_run_of_every_preset_is_a_valid_configuration(name):
    found, scale = asked(name), FILES[name].parent.name
    assert found.parameters.preset == scale, "its records would be written under another name"
    for call in found.calls:
        assert len({config.run_id for config in call.configs}) == len(call.configs)
    configs = found.configs.values()
    assert len(configs) > 10
    assert len({config.seed for config in configs}) >= 5
    assert ({config.dataset for config in configs} == {"digits"}) == (scale == "smoke"), "smoke is offline"


@pytest.mark.parametrize("name", FILES)
def test_every_run_of_every_preset_has_the_images_it_asks_for_and_can_end(name):
    for config in kinds(asked(name).configs.values(), seed=0, learning_rate=0.1):
        images = KNOWN[config.dataset].train
        used = config.train_size or images
        assert max(used + (config.validation_size or 0), config.measure_size) <= images
        assert config.batch_size <= used
        last_update(config, updates_per_epoch(config, SimpleNamespace(x_train=range(used))))


@pytest.mark.parametrize("name", FILES)
def test_every_network_of_every_preset_fits_its_images(name):
    measured = {"measures": ("performance",), "track": (), "track_every": None, "track_time": None}
    for config in kinds(map(network_of, asked(name).configs.values()), **measured):
        images = KNOWN[config.dataset]
        with torch.device("meta"):
            outputs = build(config, images.shape, images.classes)(torch.empty(2, *images.shape))
        assert outputs.shape == (2, images.classes)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A data folder with a few random images of every data set's shape."""
    folder = tmp_path_factory.mktemp("data")
    for name, images in KNOWN.items():
        stand_in(folder, images, STAND_IN).rename(folder / f"{name}.npz")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_one_step_of_every_kind_of_run_of_every_preset(stand_ins, name):
    for config in kinds(cut_down(config) for config in asked(name).configs.values()):
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
