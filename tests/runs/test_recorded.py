"""A record's configurations, checked together: as strictly as one by one, and fast."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlib._validation import LARGEST_SEED
from flatlib.config import RunConfig, grid
from flatlib.errors import FlatlibError
from flatlib.runs import records
from flatlib.runs.recorded import recorded_run_id

BASE = RunConfig(dataset='"seed":1,.npz', model="small_cnn", train_size=500, learning_rate=0.05, max_epochs=7)
SEEDS = (0, 1, 2, 10**9, LARGEST_SEED)

configs = st.builds(
    RunConfig,
    seed=st.integers(0, LARGEST_SEED),
    dataset=st.sampled_from(["digits", '"seed":1,.npz', '\\"seed":1,.npz']),
    learning_rate=st.floats(1e-6, 10) | st.integers(1, 10),
    augmentation=st.lists(st.sampled_from(["flip", "crop"]), unique=True),
    train_size=st.none() | st.integers(100, 1000),
)


@settings(deadline=None, max_examples=100)
@given(configs, st.booleans())
def test_the_name_is_the_configurations(config, whole):
    values = config.to_json()
    if not whole:  # a record that is older than a field
        values = {name: value for name, value in values.items() if value != getattr(RunConfig, name, None)}
    for seed in (config.seed, *SEEDS):
        assert recorded_run_id(values | {"seed": seed}) == replace(config, seed=seed).run_id


BAD = {
    "seed": [-1, LARGEST_SEED + 1, 1.0, True, None, "1", [1]],
    "batch_size": [10.0, True, "10", -1, 501],
    "standardize": [1, 0, None],
    "depth": [3, 2.0],
    "learning_rate": [True, 0, -0.1, float("nan"), float("inf"), "0.05"],
    "measures": [["sharpness"], "lambda_max", [["lambda_max"]], ["lambda_max", "lambda_max"]],
    "patience": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_a_configuration_refuses_is_refused_whatever_was_read_before(name, value):
    good = replace(BASE, batch_size=10, learning_rate=1.0).to_json()
    with pytest.raises(FlatlibError) as expected:
        RunConfig.from_json(good | {name: value})
    for _ in range(2):
        assert recorded_run_id(good) == RunConfig.from_json(good).run_id
        with pytest.raises(FlatlibError) as error:
            recorded_run_id(good | {name: value})
        assert str(error.value) == str(expected.value)


def quickest(read, repeats: int = 4) -> float:
    """Seconds of the fastest of a few tries."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        read()
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_table_takes_a_small_multiple_of_reading_json(tmp_path, line):
    """Three times as long as `json.loads` on these lines; checked line by line it was seven times."""
    found = {"train_loss": 0.1, "train_accuracy": 1.0, "test_loss": 0.3, "test_accuracy": 0.9, "lambda_max": 20.5}
    sweep = grid(BASE, learning_rate=[0.1, 0.2, 0.4, 0.8], batch_size=[10, 20, 50, 100], seed=range(100))
    records.write(tmp_path / "r.jsonl", [line(config, **found) for config in sweep])
    content = (tmp_path / "r.jsonl").read_bytes().splitlines()
    plain = quickest(lambda: [json.loads(text) for text in content])
    whole = quickest(lambda: records.table(records.read(tmp_path / "r.jsonl").values()))
    assert whole < 5 * plain
