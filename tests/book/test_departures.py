"""Deviations of settings from the mean of their experiment."""

import pandas as pd
import pytest

from flatlib.book.overview import centred_by_experiment
from flatlib.config import RunConfig
from flatlib.runs import records

RATES = (0.1, 0.2, 0.4)


@pytest.fixture
def runs(line):
    """Two experiments at different levels: each doubling of the rate halves the sharpness and gains two points."""

    def chapter(name, model, sharpness, accuracy, **other):
        configs = [RunConfig(model=model, learning_rate=rate, seed=s, **other) for rate in RATES for s in range(5)]
        lines = [
            line(c, lambda_max=sharpness * 0.1 / c.learning_rate, test_accuracy=accuracy + 0.02 * (c.seed - 2) + gain)
            for c, gain in zip(configs, [g for g in (0.0, 0.02, 0.04) for _ in range(5)], strict=True)
        ]
        return records.table(lines).assign(chapter=name, scale="small")

    parts = [chapter("01_lr_batch", "small_cnn", 8.0, 0.3), chapter("03_sam", "mlp", 1000.0, 0.9)]
    return pd.concat(parts, ignore_index=True)


def test_the_level_of_an_experiment_is_taken_away(runs):
    found = centred_by_experiment(runs)
    assert found["intervention"].tolist() == ["learning rate, batch size"] * 3 + ["SAM"] * 3
    assert found["lambda_max"].tolist() == pytest.approx([1, 0, -1] * 2)
    assert found["test_accuracy"].tolist() == pytest.approx([-2, 0, 2] * 2)


def test_a_setting_that_lost_a_seed_is_left_out_and_does_not_move_the_mean(runs):
    lost = runs.assign(status=runs["status"].mask((runs.index == 0), "diverged"))
    found = centred_by_experiment(lost)
    assert found["lambda_max"].tolist() == pytest.approx([0.5, -0.5, 1, 0, -1])


def test_batch_norm_is_an_intervention_and_not_another_experiment(runs):
    with_it = runs[runs["chapter"] == "01_lr_batch"].assign(model="small_cnn_bn", lambda_max=lambda t: 4 * t.lambda_max)

    found = centred_by_experiment(pd.concat([runs.query("chapter == '01_lr_batch'"), with_it], ignore_index=True))
    assert sorted(found["lambda_max"]) == pytest.approx([-2, -1, 0, 0, 1, 2])


def test_an_experiment_with_one_setting_has_nothing_to_compare(runs):
    assert centred_by_experiment(runs.query("learning_rate == 0.1")).empty
