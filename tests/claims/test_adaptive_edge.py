"""Each method's sharpness beside the edge of its own learning rate; the share of the Gauss-Newton matrix."""

import pytest

from flatlib.claims import adaptive_edge, lr_batch
from synthetic_runs import MEAN_NOISE, lr_runs, noise, without
from synthetic_runs_others import adam_runs


def measured_runs():
    """The runs of chapter 7 with momentum 0.9, ten times the sharpness as Adam sees it, and a smallest eigenvalue."""
    runs = adam_runs(True)
    adam = runs["optimizer"] == "adamw"
    return runs.assign(
        preconditioned_lambda_max=(10 * runs["lambda_max"]).where(adam),
        lambda_min=-runs["lambda_max"] / 10,
        schedule=runs["schedule"].mask(runs["stop"] == "epochs", "granziol"),
    )


def number(text: str) -> float:
    return float(text.split()[0].rstrip(","))


def test_the_edge_is_that_of_the_last_rate():
    table = adaptive_edge.adaptive_table(measured_runs()).set_index("method")
    edges = {"SGD": 3.8 / 0.001, "Adam": 38 / 1e-5, "Adam, averaged": 38 / 0.0005}
    sharpness = {"SGD": 1.0, "Adam": 1e4, "Adam, averaged": 40.0}
    for method, edge in edges.items():
        assert number(table.loc[method, "its edge"]) == pytest.approx(edge, rel=1e-3)
        ratio = sharpness[method] * MEAN_NOISE / edge
        assert number(table.loc[method, "over its edge"]) == pytest.approx(ratio, rel=1e-2)
    assert table.loc["SGD", "λ_max as Adam sees it"] == ""
    assert number(table.loc["Adam, averaged", "λ_min"]) == pytest.approx(-0.4 * MEAN_NOISE, rel=1e-2)
    assert number(adaptive_edge.over_edge(measured_runs(), "Adam")) == pytest.approx(1e4 * MEAN_NOISE / 3.8e6, rel=0.01)


def test_records_without_the_measure_say_so():
    for runs in (adam_runs(True), measured_runs().assign(preconditioned_lambda_max=None)):
        assert adaptive_edge.adaptive_table(runs).to_numpy().tolist() == [["not measured in these runs"]]
        assert adaptive_edge.over_edge(runs, "Adam") == "not measured in these runs"
    assert adaptive_edge.over_edge(measured_runs().assign(status="capped"), "SGD") == "not measured in these runs"


def test_share_of_the_gauss_newton_matrix():
    runs = lr_runs(True)
    runs["gauss_newton_lambda_max"] = 0.9 * runs["lambda_max"] * runs["seed"].map(noise)
    lost = without(runs, "batch_size == 50 and seed == 0")
    lost.loc[lost["batch_size"] == 50, "gauss_newton_lambda_max"] = 0.0  # of settings that do not count
    for each in (runs, lost):
        assert lr_batch.gauss_newton_share(each).mean() == pytest.approx(90 * MEAN_NOISE)
    assert lr_batch.gauss_newton_share(lr_runs(True)).empty
