"""The plateau of accuracy at the large batch is looked for at the end of a grid that is long enough."""

import numpy as np
import pytest

from flatlib.claims import CLAIMS
from synthetic_runs import lr_runs, numbers, words


def test_a_grid_that_ends_before_the_plateau_tests_none():
    """Accuracy that rises to the last rate may go on rising, unless training fails there."""
    claim, runs = CLAIMS["01_lr_batch"], lr_runs(False)
    assert words(claim, runs)["accuracy (large batch)"] == "contradicted"
    assert words(claim, runs[runs["status"] == "reached"])["accuracy (large batch)"] == "not tested here"
    flat = lr_runs(True)
    assert words(claim, flat[flat["status"] == "reached"])["accuracy (large batch)"] == "supported"


def test_the_plateau_is_looked_for_at_the_top():
    """Ten points more at the second rate of four, and none after it."""
    runs = lr_runs(True)
    runs["status"] = "reached"
    large = runs["batch_size"] == 1000
    runs.loc[large, "test_accuracy"] = np.where(runs.loc[large, "learning_rate"] > 0.02, 0.5, 0.4)
    assert numbers(CLAIMS["01_lr_batch"], runs)["accuracy (large batch)"] == pytest.approx(0)
    assert words(CLAIMS["01_lr_batch"], runs)["accuracy (large batch)"] == "supported"
