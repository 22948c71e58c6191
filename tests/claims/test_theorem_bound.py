"""Theorem 5.1 in numbers: which runs measure its bound, the tables, and that no verdict reads these runs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flatlib.book.chapter import Chapter
from flatlib.claims import CLAIMS, jacobian_bound, label_smoothing, progressive_sharpening
from flatlib.config import RunConfig, grid
from synthetic_runs import MEAN_NOISE, numbers, runs_of
from synthetic_runs_others import sharpening_runs, smoothing_runs

CHAPTERS = {
    "08_progressive_sharpening": (progressive_sharpening, sharpening_runs),
    "09_label_smoothing": (label_smoothing, smoothing_runs),
}


def bound_runs() -> pd.DataFrame:
    """Two seeds on both losses, each with Jacobians of the probabilities and of the outputs."""

    def measures(config):
        bound, first = (1 - config.label_smoothing) / 10, config.seed == 3
        parts = {"misfit": 0.5, "fitted": bound if first else 9.0, "quotient": 0.3}
        named = {f"jacobian_lower_bound_{name}": value for name, value in parts.items()}
        softmaxed = {"softmax_jacobian_norm": 5 * bound, "jacobian_norm": 20 * bound}
        return {"jacobian_lower_bound": bound - 0.2} | named | softmaxed

    axes = {"loss": ["cross_entropy", "squared"], "label_smoothing": [0.0, 0.5], "seed": [3, 4]}
    return runs_of(grid(RunConfig(), **axes), measures)


def parameters(name: str) -> SimpleNamespace:
    return Chapter.at_preset(name, "small").parameters


@pytest.mark.parametrize("name", CHAPTERS)
def test_one_seed_measures_the_bound(name):
    p = parameters(name)
    runs = [run for run in CHAPTERS[name][0].experiment(p) if "jacobian_lower_bound" in run.measures and not run.track]
    assert {run.seed for run in runs} == {p.seeds[0]}
    assert not any("performance" in run.measures for run in runs), "a second row of one network in tables of gaps"
    settings = p.learning_rates if name.startswith("08") else p.smoothings
    assert len(runs) == len(settings) * (2 if name.startswith("08") else 1)
    assert len({run.run_id for run in CHAPTERS[name][0].experiment(p)}) == len(CHAPTERS[name][0].experiment(p))


@pytest.mark.parametrize("name", CHAPTERS)
def test_runs_without_a_trajectory_change_no_verdict(name):
    runs = CHAPTERS[name][1](True)
    more = runs[(runs["model"] != "softmax_regression") & (runs["input_scale"] == 1)]
    more = more.assign(trajectory=more["seed"].map(lambda seed: {}))
    assert numbers(CLAIMS[name], pd.concat([runs, more], ignore_index=True)) == numbers(CLAIMS[name], runs)


def test_the_first_seed_has_rows():
    table = jacobian_bound.bound_table(bound_runs(), ["loss", "label_smoothing"])
    assert table["loss"].tolist() == ["cross-entropy"] * 2 + ["squared"] * 2
    assert table["label smoothing"].tolist() == ["0.0", "0.5"] * 2
    assert table["lower bound"].tolist() == ["-0.1", "-0.15"] * 2
    assert table["lower bound when fitted"].tolist() == ["0.1", "0.05"] * 2
    assert table["Jacobian norm"].tolist() == ["0.5", "0.25", "2", "1"]
    assert jacobian_bound.times_the_bound(bound_runs()) == "5 to 20"


@pytest.mark.parametrize("lost", [bound_runs().drop(columns="jacobian_lower_bound"), bound_runs().iloc[:0]], ids=len)
def test_records_without_the_bound_say_so(lost):
    assert jacobian_bound.bound_table(lost, ["loss"]).to_numpy().tolist() == [["not measured in these runs"]]
    assert jacobian_bound.times_the_bound(lost) == "not measured in these runs"


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_peaks_beside_the_distance_of_targets(loss):
    table = label_smoothing.against_distance(smoothing_runs(True), loss)
    assert table["1 - s"].tolist() == ["1.0", "0.75", "0.5"]
    assert [float(text.split(",")[0]) for text in table["over that without smoothing"]] == pytest.approx([1, 0.75, 0.5])
    peaks = [float(text.split()[0]) for text in table["peak Jacobian norm"]]
    assert peaks == pytest.approx(2 * MEAN_NOISE * np.array([1, 0.75, 0.5]), rel=1e-2)
    assert set(table["has stopped rising"]) == {"100%"}


def test_runs_without_the_loss_or_the_jacobian_say_so():
    runs = smoothing_runs(True)
    assert label_smoothing.against_distance(runs[runs["loss"] != "squared"], "squared").iloc[0].tolist() == [
        "not measured in these runs"
    ]
    untracked = runs["trajectory"].map(lambda path: {k: v for k, v in path.items() if k != "jacobian_norm"})
    table = label_smoothing.against_distance(runs.assign(trajectory=untracked), "squared")
    assert table.to_numpy().tolist() == [["not measured in these runs"]]
