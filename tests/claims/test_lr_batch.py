"""The accuracy of two batch sizes at equal sharpness, against integrals done by hand."""

import numpy as np
import pandas as pd
import pytest

from flatlib.claims.lr_batch import accuracy_at_equal_sharpness


def grouped(small, large):
    """Runs of one seed: (lambda_max, test_accuracy) pairs at batch sizes 32 and 512."""
    rows = [(0, size, 0.1, "reached", *point) for size, points in ((32, small), (512, large)) for point in points]
    return pd.DataFrame(rows, columns=["seed", "batch_size", "learning_rate", "status", "lambda_max", "test_accuracy"])


def test_gap_is_integrated_over_the_overlap():
    table = grouped(small=[(1, 0.9), (100, 0.7)], large=[(10, 0.6), (1000, 0.6)])
    # Over log10 x in [1, 2] the small batch falls from 0.8 to 0.7, the large one stays at 0.6.
    assert accuracy_at_equal_sharpness(table).to_dict() == pytest.approx({0: 0.15})


def test_gap_follows_every_knot():
    table = grouped(small=[(100, 0.0), (10, 1.0), (1, 0.0)], large=[(1, 0.0), (100, 0.0)])
    assert accuracy_at_equal_sharpness(table)[0] == pytest.approx(0.5)  # a triangle of height 1


def test_runs_of_equal_sharpness_are_averaged():
    table = grouped(small=[(1, 0.8), (1, 1.0), (10, 0.9)], large=[(1, 0.5), (10, 0.5)])
    assert accuracy_at_equal_sharpness(table)[0] == pytest.approx(0.4)


@pytest.mark.parametrize("large", [[(200, 0.6), (1000, 0.6)], [(100, 0.6), (1000, 0.6)], [(np.nan, 0.6)]])
def test_gap_is_undefined_without_overlap(large):
    table = grouped(small=[(1, 0.9), (100, 0.7)], large=large)
    assert accuracy_at_equal_sharpness(table).isna().all()
