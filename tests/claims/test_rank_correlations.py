"""Every measure against a setting, on made-up runs whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from flatlib.claims import trends
from flatlib.claims.rank_correlations import UNKNOWN

RHOS = [0.0, 0.05, 0.2]


def runs() -> pd.DataFrame:
    """Two batch sizes, two learning rates, three radii, five seeds; lambda_max falls with the radius at the small batch
    and rises at the large one, and is far larger at the small rate."""
    rows = [
        {"batch_size": size, "learning_rate": rate, "sam_rho": rho, "seed": seed, "status": "reached"}
        | {"lambda_max": (10 + (rho if size == 500 else -rho)) / rate, "trace": np.nan, "weight_norm": 2.0}
        for size in (20, 500)
        for rate in (0.1, 0.01)
        for rho in RHOS
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def column(table: pd.DataFrame, name: str) -> dict[str, str]:
    return table.set_index("measure")[name].to_dict()


def test_a_measure_is_compared_within_the_settings_that_are_held():
    table = trends(runs(), "sam_rho", ["lambda_max"], held=["learning_rate"])
    assert column(table, "batch size 20") == {"lambda max": "-1 [-1, -1], n = 5"}
    assert column(table, "batch size 500") == {"lambda max": "1 [1, 1], n = 5"}
    mixed = column(trends(runs(), "sam_rho", ["lambda_max"]), "batch size 20")["lambda max"]
    assert float(mixed.split()[0]) == pytest.approx(-6 / np.sqrt(15 * 12), abs=0.005)  # the rates differ far more


def test_a_setting_that_lost_a_seed_has_no_say():
    table = runs()
    lost = (table["sam_rho"] == 0.2) & (table["seed"] == 3) & (table["batch_size"] == 20)
    table.loc[lost, "status"] = "capped"
    table.loc[(table["sam_rho"] == 0.2) & (table["batch_size"] == 20), "lambda_max"] = 1e9  # would turn the order round
    shown = column(trends(table, "sam_rho", ["lambda_max"], held=["learning_rate"]), "batch size 20")
    assert shown == {"lambda max": "-1 [-1, -1], n = 5"}


def test_what_is_constant_or_not_defined_has_no_answer():
    shown = column(trends(runs(), "sam_rho", ["trace", "weight_norm"]), "batch size 500")
    assert shown == {"trace": UNKNOWN, "weight norm": UNKNOWN}
