"""Settings are checked when they are built, and keep the name they were given."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlib import measures, names
from flatlib.config import Execution, RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.training import data, models
from flatlib.training.optim import SCHEDULES, optimizers

DEFAULTS = json.loads(
    """{
    "dataset": "digits", "train_size": null, "test_size": null, "validation_size": null,
    "data_seed": null, "subset": "balanced", "standardize": true, "pixels": "unit",
    "input_scale": 1.0, "jacobian_penalty": 0.0, "crop_padding": 4, "matched_loss_every": null,
    "model": "mlp", "width": 1.0, "depth": 2, "activation": "relu", "dropout": 0.0, "loss": "cross_entropy",
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "weight_decay_kind": "l2", "sam_rho": 0.0,
    "sam_batch": null, "learning_rate": 0.1, "schedule": "constant", "averaging_start": null,
    "averaging_learning_rate": null, "batch_size": 50, "microbatch": null, "label_smoothing": 0.0, "augmentation": [],
    "mixup": 0.0, "seed": 0, "stop": "train_accuracy", "stop_value": 0.99, "max_epochs": 1000, "max_updates": null,
    "check_every": null, "measures": ["performance", "lambda_max"], "matched_loss": null, "track": [],
    "track_every": null, "track_time": null, "measure_size": 1000, "batch_norm": "eval", "engine": "lanczos",
    "tolerance": 0.001, "precision": "float32", "version": 1
    }"""
)
PAPER = RunConfig(dataset="cifar10", model="vgg11", learning_rate=0.04, batch_size=5000, seed=103, max_epochs=10000)
TRACKED = RunConfig(batch_size=0, stop="train_loss", stop_value=0.1, track=("train_loss",), track_time=1.0)

WRONG_KIND = [
    *[(name, value) for name in ("dataset", "model", "stop", "engine") for value in (1, None, ["digits"])],
    *[(name, value) for name in ("learning_rate", "width", "tolerance") for value in ("0.1", None, True, [0.1], 1j)],
    *[(name, value) for name in ("seed", "batch_size", "depth", "version") for value in (1.0, "1", None, True)],
    *[("train_size", value) for value in (10.0, "all", True)],
    *[("standardize", value) for value in (1, "yes", None)],
    *[(name, value) for name in ("measures", "track") for value in ("lambda_max", 3, [1], [["lambda_max"]])],
    ("measures", {"performance", "lambda_max"}),  # a set has no order: the run_id would differ between processes
]
UNKNOWN = ("dataset", *names.CHOICES)
OUT_OF_RANGE = [
    *[(name, 0) for name in ("train_size", "test_size", "depth", "max_epochs", "check_every", "measure_size")],
    *[(name, -1) for name in ("batch_size", "seed")],
    *[(name, value) for name in ("learning_rate", "width", "tolerance") for value in (0, -1.0, np.nan, np.inf)],
    *[(name, value) for name in ("matched_loss", "input_scale") for value in (0.0, -0.1, np.nan)],
    *[("jacobian_penalty", value) for value in (-1.0, np.inf)],
    *[(name, 0) for name in ("matched_loss_every", "crop_padding")],
    *[("stop_value", value) for value in (0, 1.01, 2)],
    ("seed", 2**70),
    *[(name, value) for name in ("momentum", "label_smoothing", "dropout", "averaging_start") for value in (-0.1, 1.0)],
    *[(name, value) for name in ("weight_decay", "sam_rho", "mixup") for value in (-0.1, np.inf, np.nan)],
    *[(name, 0) for name in ("microbatch", "sam_batch", "validation_size", "max_updates", "averaging_learning_rate")],
    ("augmentation", ("turn",)),
    pytest.param("learning_rate", 10**400, id="learning_rate-10**400"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_KIND + OUT_OF_RANGE)
def test_bad_value_is_named(name, value):
    with pytest.raises(FlatlibError, match=name) as error:
        RunConfig(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"train_size": 100, "batch_size": 101}, "batch_size"),
        ({"track": ("train_loss",)}, "track"),
        ({"track": ("train_loss",), "track_every": 1, "track_time": 1.0}, "track"),
        ({"track_every": 1}, "track"),
        ({"model": "softmax_regression", "depth": 3}, "depth"),
        ({"model": "vgg11", "activation": "tanh"}, "activation"),
        ({"model": "small_cnn", "dropout": 0.1}, "dropout"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum"),
        ({"optimizer": "heavy_ball"}, "momentum"),
        ({"optimizer": "adagrad", "weight_decay": 0.1, "weight_decay_kind": "decoupled"}, "weight_decay_kind"),
        ({"optimizer": "adamw", "weight_decay": 0.1}, "weight_decay_kind"),
        ({"optimizer": "adashift", "weight_decay": 0.1}, "weight_decay"),
        ({"sam_batch": 10}, "sam_batch"),
        ({"jacobian_penalty": 0.1, "sam_rho": 0.1}, "jacobian_penalty"),
        ({"crop_padding": 1}, "crop_padding"),
        ({"matched_loss_every": 5}, "matched_loss_every"),
        ({"schedule": "granziol_averaging", "averaging_start": 0.5, "stop": "epochs"}, "schedule"),
        ({"averaging_learning_rate": 0.1}, "averaging_learning_rate"),
        ({"averaging_start": 0.5}, "averaging_start"),
        ({"stop": "updates"}, "max_updates"),
        ({"schedule": "granziol", "max_updates": 10}, "schedule"),
    ],
)
def test_contradicting_settings(settings, field):
    with pytest.raises(FlatlibError, match=field):
        RunConfig(**settings)


@pytest.mark.parametrize("name", [*UNKNOWN, "measures", "track"])
def test_unknown_name_lists_allowed(name):
    known = "lambda_max" if name in ("measures", "track") else DEFAULTS[name]
    with pytest.raises(FlatlibError, match=f"{name}: .*allowed: .*{known}"):
        RunConfig(**{name: "nonsense" if name in UNKNOWN else ["performance", "nonsense"]})


def test_numpy_scalars_convert():
    plain = RunConfig(learning_rate=1.0, batch_size=20, seed=3, standardize=False, dataset="mnist")
    numbers = {"learning_rate": 1, "batch_size": np.int64(20), "seed": np.uint8(3), "standardize": np.bool_(False)}
    other = RunConfig(**numbers, dataset=np.str_("mnist"))
    assert other == plain
    assert other.run_id == plain.run_id
    assert type(other.learning_rate) is float
    assert RunConfig(measures=["performance"]) == RunConfig(measures=("performance",))


def test_published_defaults_and_run_ids():
    """A field at its default is not in the hash: a new default would give recorded run_ids another meaning."""
    assert RunConfig().to_json() == DEFAULTS
    found = [config.run_id for config in (RunConfig(), RunConfig(seed=1), PAPER, TRACKED)]
    assert found == ["2430f1a2ad2982d0", "4c90efff418217e7", "7ef44561d1ea387a", "344958774839b25e"]


def test_changed_fields_are_hashed():
    other = {"seed": 1, "width": 0.5, "test_size": 7, "measures": ("lambda_max",), "standardize": False, "version": 2}
    ids = {replace(RunConfig(), **{name: value}).run_id for name, value in other.items()}
    assert len(ids | {RunConfig().run_id}) == len(other) + 1
    assert RunConfig(seed=1, width=1.0).canonical == '{"seed":1,"version":1}'


fields = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31),
        "width": st.floats(1e-3, 1e3),
        "learning_rate": st.floats(1e-6, 10) | st.integers(1, 10),
        "batch_size": st.integers(0, 100),
        "train_size": st.none() | st.integers(100, 1000),
        "dataset": st.sampled_from(names.DATASETS),
        "measures": st.lists(st.sampled_from(names.MEASURES), unique=True),
    },
)


@settings(deadline=None, max_examples=60)
@given(fields, st.randoms())
def test_run_id_survives_json(values, random):
    made = RunConfig(**values)
    items = list(json.loads(json.dumps(made.to_json())).items())
    random.shuffle(items)
    again = RunConfig.from_json(dict(items))
    assert (again, again.run_id) == (made, made.run_id)
    assert len(made.run_id) == 16


def test_unknown_field_is_refused():
    with pytest.raises(FlatlibError, match="unknown name 'patience'; allowed: dataset"):
        RunConfig.from_json({"patience": 0.9})
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1


def test_grid_of_any_iterables():
    made = grid(RunConfig(width=0.1), batch_size=[20, 10], seed=range(2))
    assert [(c.batch_size, c.seed, c.width) for c in made] == [(20, 0, 0.1), (20, 1, 0.1), (10, 0, 0.1), (10, 1, 0.1)]
    assert len(grid(RunConfig(), learning_rate=np.array([0.1, 0.2]), seed=(n for n in (1, 2)))) == 4
    two = grid(RunConfig(), measures=[["performance"], ["lambda_max"]])
    assert [c.measures for c in two] == [("performance",), ("lambda_max",)]
    assert grid(RunConfig()) == [RunConfig()]


@pytest.mark.parametrize(
    ("name", "values", "noun"),
    [
        *(("seed", [], "empty"), ("seed", 3, "list"), ("model", "mlp", "list"), ("seed", [1, 2, 1], "twice")),
        *(("learning_rate", [1, 1.0], "twice"), ("sed", [1], "allowed: dataset"), ("seed", [0, 0.5], "int")),
    ],
)
def test_grid_refuses(name, values, noun):
    with pytest.raises(FlatlibError, match=f"{name}.*{noun}"):
        grid(RunConfig(), **{name: values})


@pytest.mark.parametrize(
    "values",
    [{"workers": w} for w in (0, -1, 1.5, "2", True, None)]
    + [{"device": d} for d in ("gpu", "", 3, None, "cude:0")]
    + [{"scheduler": "host"}, {"scheduler": 8786}, {"time_limit": 0}, {"time_limit": float("nan")}],
    ids=str,
)
def test_execution_refuses(values):
    with pytest.raises(FlatlibError, match=next(iter(values))):
        Execution(**values)


def test_names_equal_registries():
    assert set(names.MODELS) == set(models.BUILDERS)
    assert set(names.OPTIMIZERS) == set(optimizers.BUILDERS)
    assert set(names.CHOICES["schedule"]) == set(SCHEDULES)
    assert set(names.MEASURES) == set(measures.REGISTRY)
    assert set(data.TORCHVISION) < set(names.DATASETS)
    assert set(names.DATASETS) - set(data.TORCHVISION) == {"digits", "cifar10-jpeg"}
    assert set(DEFAULTS) == {field.name for field in dataclasses.fields(RunConfig)}
