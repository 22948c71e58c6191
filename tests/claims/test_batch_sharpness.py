"""Batch sharpness in units of 2 / learning rate: which runs count, the words, and records without the measure."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from flatlib import figures
from flatlib.claims import batch_sharpness
from flatlib.config import RunConfig, grid
from synthetic_runs import MEAN_NOISE, SEEDS, noise, runs_of, without

EDGES = {20: 1.0, 200: 0.4}  # of the two batch sizes, in units of 2 / learning rate


def edge_runs() -> pd.DataFrame:
    """Runs of plain SGD at the edge or below it, and of SAM far above it."""

    def measures(config):
        edge = 2 / config.learning_rate * noise(config.seed)
        sharpness = EDGES[config.batch_size] * edge * (1 + 9 * (config.sam_rho > 0))
        return {"batch_sharpness": sharpness, "lambda_max": sharpness / 2}

    axes = {"batch_size": list(EDGES), "learning_rate": [0.05, 0.1], "sam_rho": [0.0, 0.1], "seed": SEEDS}
    return runs_of(grid(RunConfig(), **axes), measures)


def number(text: str) -> float:
    return float(text.split()[0])


def test_each_setting_of_plain_sgd_has_a_row():
    table = batch_sharpness.edge_table(edge_runs())
    assert table[["batch size", "learning rate"]].to_numpy().tolist() == [
        [size, rate] for size in ("20", "200") for rate in ("0.05", "0.1")
    ]
    for column, factor in (("batch sharpness · η / 2", 1), ("λ_max · η / 2", 0.5)):
        expected = [factor * MEAN_NOISE * EDGES[int(size)] for size in table["batch size"]]
        assert [number(text) for text in table[column]] == pytest.approx(expected, rel=1e-3)
        assert table[column].str.endswith("n = 5").all()


def test_texts_say_where_the_line_is():
    assert batch_sharpness.edge_texts(edge_runs(), "small")["line"] == "near the line"
    texts = batch_sharpness.edge_texts(edge_runs(), "large")
    assert texts["line"] == "below the line"
    assert number(texts["batch_sharpness"]) == pytest.approx(0.4 * MEAN_NOISE, rel=1e-2)
    assert number(texts["lambda_max"]) == pytest.approx(0.2 * MEAN_NOISE, rel=1e-2)
    assert "n =" not in "".join(texts.values())
    assert batch_sharpness.beside_line(pd.Series([1.6, 1.7])) == "above the line"
    assert batch_sharpness.beside_line(pd.Series([0.6, 1.6])) == batch_sharpness.UNCLEAR


def test_a_setting_that_lost_a_seed_is_excluded():
    runs = without(edge_runs(), "seed == 0 and learning_rate == 0.1 and sam_rho == 0", "diverged")
    for lost in (runs, runs.assign(batch_sharpness=runs["batch_sharpness"].where(runs["status"] == "reached"))):
        assert batch_sharpness.edge_table(lost)["learning rate"].tolist() == ["0.05", "0.05"]


@pytest.mark.parametrize("lost", [{"columns": ["batch_sharpness"]}, {"columns": ["batch_sharpness", "lambda_max"]}])
def test_records_without_the_measure_say_so(lost):
    runs = edge_runs().drop(**lost)
    assert batch_sharpness.edge_table(runs).to_numpy().tolist() == [["not measured in these runs"]]
    for batch in ("small", "large"):
        texts = batch_sharpness.edge_texts(runs, batch)
        assert (texts["line"], texts["batch_sharpness"]) == ("not measured", "not measured in these runs")
    _, ax = plt.subplots()
    figures.mean_curves(batch_sharpness.of_plain_sgd(runs), "learning_rate", "batch_sharpness", ax, theory="2/eta")
    assert ax.texts
