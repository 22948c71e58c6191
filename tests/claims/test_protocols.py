"""Weight decay at several lengths of training and scalings of the inputs, each on its own."""

import numpy as np
import pytest

from flatlib.claims import CLAIMS, weight_decay
from flatlib.config import RunConfig, grid
from synthetic_runs import MEAN_NOISE, SEEDS, noise, numbers, runs_of, words
from synthetic_runs_others import decay_runs

DECAY, POINT = CLAIMS["06_weight_decay"], 100 * MEAN_NOISE


def test_the_protocol_that_shows_a_claim_least_is_judged():
    """Decay helps after 50 epochs and harms after 10: the mean of both would support the claim."""
    runs = decay_runs(True)
    short = (runs["max_epochs"] == 10) & (runs["weight_decay"] > 0)
    mixed = runs.assign(
        test_accuracy=runs["test_accuracy"] - np.where(short, 0.018, 0),
        generalization_gap=runs["generalization_gap"] + np.where(short, 0.035, 0),
        lambda_max=runs["lambda_max"].where(~short, 0.01 * runs["lambda_max"]),
    )
    found = words(DECAY, mixed)
    assert [found[name] for name in ("accuracy", "gap", "sharpness")] == ["contradicted"] * 3
    assert found["Frobenius norm"] == "supported"
    assert numbers(DECAY, mixed)["accuracy"] == pytest.approx(0.015 * POINT - 1.8)
    table = weight_decay.by_protocol(mixed).set_index("epochs")
    assert [float(text.split()[0]) for text in table["points of accuracy"]] == pytest.approx([-0.3, 1.5], abs=0.01)
    assert table.loc[10, "τ of γ and λ_max"].startswith("-")
    assert table.loc[50, "τ of γ and λ_max"] == "1, all 5 seeds"
    capped = weight_decay.by_protocol(runs.assign(status="capped"))
    assert capped.to_numpy().tolist() == [["no protocol that every seed finished"]]


def test_a_choice_among_blocks_is_corrected_for():
    accuracy = next(each for each in DECAY.predictions if each.name == "accuracy")
    runs = decay_runs(False)
    runs["test_accuracy"] += 0.02 * np.sin(7 * runs["seed"])
    both, alone = accuracy.judge(runs), accuracy.judge(runs[runs["max_epochs"] == 10])
    assert accuracy.statistic.compared(runs) == 2
    assert 0 < both["p"] <= 1
    assert both["p"] == pytest.approx(min(1, 2 * alone["p"]))


def test_scalings_have_their_own_names():
    for name, fields in weight_decay.INPUTS.items():
        assert weight_decay.inputs_of(RunConfig(**fields).to_json()) == name


def test_distance_from_the_printed_eigenvalues():
    """Four percent off at one of the paper's decays; other scalings, decays and lengths of training do not matter."""
    base = RunConfig(dataset="mnist", model="softmax_regression", stop="epochs", standardize=False)
    runs = grid(base, pixels=["unit", "symmetric"], max_epochs=[50, 1000], weight_decay=[0.0, 5e-4, 0.01], seed=SEEDS)

    def measures(config):
        wanted = config.pixels == "symmetric" and config.max_epochs == 1000
        printed = {0.0: 12.26 * 0.96, 5e-4: 15.84}.get(config.weight_decay, 99.0)
        return {"lambda_max": printed * noise(config.seed) / MEAN_NOISE if wanted else 1.0}

    table = runs_of(runs, measures)
    assert weight_decay.distance_from_paper(table, "in [-1, 1]") == "4.0"
    density = table.assign(lambda_max=np.nan, seed=9)
    assert weight_decay.distance_from_paper(density, "in [-1, 1]") == "not measured in these runs"
    assert weight_decay.distance_from_paper(table, "standardized") == "not measured in these runs"
