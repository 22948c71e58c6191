"""Runs that diverge, stall or can never end: a status, or one clear line before the first step."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flatlib.config import Execution, RunConfig
from flatlib.errors import FlatlibError
from flatlib.runs import records, sweep
from flatlib.training.train import train
from image_files import save

TINY = RunConfig(width=0.1, train_size=200, test_size=100, max_epochs=3)  # 12 updates
QUIET = Execution(device="cpu", progress=False)


def recorded(tmp_path, config: RunConfig) -> dict:
    """The line that a sweep of one run writes; a second sweep finds it and trains nothing."""
    record = tmp_path / "r.jsonl"
    first = sweep.run([config], record, QUIET)
    (text,) = record.read_text().splitlines()
    assert sweep.run([config], record, QUIET)["status"].tolist() == first["status"].tolist()
    assert record.read_text().splitlines() == [text]
    assert records.read(record) == {config.run_id: json.loads(text)}
    return json.loads(text)


DIVERGING = {
    "a step far too large": {"learning_rate": 1e38},
    "weights of SAM overflow": {"sam_rho": 1e30},
    "huge images": {"dataset": "huge.npz", "standardize": False, "batch_size": 5, "train_size": 20},
}


@pytest.mark.parametrize("track", [{}, {"track": ("train_loss", "lambda_max"), "track_every": 1}], ids=str)
@pytest.mark.parametrize("settings", DIVERGING.values(), ids=DIVERGING)
def test_nan_is_recorded_as_diverged(tmp_path, monkeypatch, settings, track):
    monkeypatch.chdir(tmp_path)
    save("huge.npz", x_train=np.full((24, 6, 6), 1e38), x_test=np.full((12, 6, 6), 1e38))
    line = recorded(tmp_path, replace(TINY, test_size=10, check_every=1, **settings, **track))
    assert (line["status"], line["measures"]) == ("diverged", {"updates": 1})
    assert line["trajectory"].get("update", []) in ([], [0])


@pytest.mark.parametrize("rho", [100.0, 1e6])
def test_stalled_sam_is_capped(tmp_path, rho):
    """The gradient far away says nothing about the loss here; without SAM a fifth of these steps learns more."""
    line = recorded(tmp_path, replace(TINY, sam_rho=rho, max_epochs=15, measures=("performance",)))
    assert (line["status"], line["measures"]["updates"]) == ("capped", 60)
    assert line["measures"]["train_accuracy"] <= 0.11
    assert line["measures"]["train_loss"] == pytest.approx(np.log(10), rel=0.01)
    assert train(TINY, device="cpu").measures["train_accuracy"] > 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": "updates", "max_updates": 13}, "stop: updates .* of 3 are 12 updates, and max_updates is 13"),
        ({"stop": "epochs", "max_updates": 11}, "stop: epochs .* of 3 are 12 updates, and max_updates is 11"),
        ({"stop": "updates", "max_updates": 4, "batch_size": 0}, "of 3 are 3 updates, and max_updates is 4"),
    ],
)
def test_unreachable_stop_rule_is_one_line(tmp_path, settings, message):
    with pytest.raises(FlatlibError, match=message) as error:
        train(replace(TINY, **settings), device="cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(FlatlibError, match=f"1 of 1 runs failed .*{message}"):
        sweep.run([replace(TINY, **settings)], tmp_path / "r.jsonl", QUIET)


def test_smoothed_loss_reaches_zero():
    """The entropy of the targets is taken off, so that the smallest loss is zero with label smoothing as without."""
    smoothed = {"label_smoothing": 0.2, "stop": "train_loss", "stop_value": 0.1}
    trained = train(replace(TINY, **smoothed, learning_rate=0.3, max_epochs=300), device="cpu")
    entropy = -0.82 * np.log(0.82) - 9 * 0.02 * np.log(0.02)
    assert trained.status == "reached"
    assert trained.measures["train_loss"] <= 0.1 < entropy
