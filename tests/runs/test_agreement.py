"""Published runs, trained again: the same to a tolerance, as another kind of CPU adds in another order."""

from dataclasses import replace

import pytest
import torch

from flatlib.book.paths import find_root
from flatlib.config import RunConfig
from flatlib.runs import records
from flatlib.runs.provenance import processor, provenance
from flatlib.training.train import train

# Exact measures, but for rounding; a search or an estimate may end elsewhere.
MEASURES = ("performance", "lambda_max", "gradient_norm", "weight_norm", "jacobian_norm", "softmax_jacobian_norm")
UNTRACKED = {"track": (), "track_every": None, "track_time": None, "matched_loss": None}
ACCURACIES = ("train_accuracy", "test_accuracy", "generalization_gap")


def shortest(path) -> list[dict]:
    """The two runs of a record with the fewest updates, in which differences have grown least."""
    return sorted(records.read(path).values(), key=lambda line: line["measures"]["updates"])[:2]


LINES = [
    pytest.param(line, id=f"{path.parent.name}-{line['run_id']}")
    for path in sorted((find_root() / "book" / "records").glob("*/digits.jsonl"))
    for line in shortest(path)
]


@pytest.mark.parametrize("line", LINES)
def test_short_runs_agree_with_their_record(line):
    config = RunConfig.from_json(line["config"])
    taken = tuple(name for name in config.measures if name in MEASURES)
    run = train(replace(config, measures=taken, **UNTRACKED), device="cpu")
    assert (run.status, run.updates) == (line["status"], line["measures"]["updates"])
    search = ("_residual", "_products", "_converged")
    compared = {name: value for name, value in run.measures.items() if not name.endswith(search)}
    assert len(compared) > 5
    for name, value in compared.items():
        error = {"abs": 0.005} if name in ACCURACIES else {"rel": 1e-3}
        assert value == pytest.approx(line["measures"][name], **error), name


def test_record_lists_every_chapter():
    assert len(LINES) == 22


def test_provenance_names_the_processor():
    assert provenance(torch.device("cpu"))["processor"] == processor()
    assert "(" in processor()
