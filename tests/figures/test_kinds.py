"""Every kind of figure: the same bytes for the same data, a placeholder for no data, and errors that name a column."""

import io
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from flatlib import figures
from flatlib.errors import FlatlibError

pytestmark = pytest.mark.usefixtures("style")

RUNS = pd.DataFrame(
    [
        (seed, batch, rate, name, "reached", batch / rate * (1 + 0.1 * seed), 0.8 + 0.01 * seed)
        for seed in range(3)
        for batch, name in ((32, "a"), (512, "b"))
        for rate in (0.01, 0.1, 1.0)
    ],
    columns=["seed", "batch_size", "learning_rate", "how", "status", "lambda_max", "test_accuracy"],
)
TRACKED = pd.DataFrame(
    [(s, f"{rate}-{s}", rate, t, 1.0 + t + s) for rate in (0.05, 0.1) for s in range(2) for t in (0, 10, 20)],
    columns=["seed", "run_id", "learning_rate", "update", "lambda_max"],
)
GRID = np.linspace(-1, 1, 9)
DENSITY = pd.DataFrame({"probe": np.repeat([0, 1], 9), "eigenvalue": np.tile(GRID, 2), "density": 1.0})
LANDSCAPE = pd.DataFrame({"step_1": np.repeat(GRID, 9), "step_2": np.tile(GRID, 9), "path": "p"}).assign(
    step=lambda t: t["step_1"],
    direction=lambda t: np.round(t["step_2"]),
    eigenvalue=2.0,
    curvature=2.0,
    loss=lambda t: 0.01 + t["step_1"] ** 2 + t["step_2"] ** 2,
    quadratic=lambda t: t["loss"],
)
ESTIMATES = pd.DataFrame({"row": ["A", "B"], "series": "all", "estimate": [0.5, 0.2], "low": 0.1, "high": 0.9})
NUMBERS = ESTIMATES[["low", "high"]]
PARTS = ESTIMATES.assign(part=["all", "one"])
VERDICTS = pd.DataFrame({"chapter": ["01_a"], "prediction": "x", "scale": "small", "verdict": "supported"})
INTERVALS = VERDICTS.assign(unit="points", threshold="> 0", estimate=1.0, low=0.5, high=1.5)
DEVIATIONS = pd.DataFrame({"intervention": ["SAM", "MLP"], "lambda_max": [1.0, -1.0], "test_accuracy": [2.0, -2.0]})

KINDS = {  # the function, its table, and a column that it needs
    "mean_curves": (lambda t, ax: figures.mean_curves(t, "learning_rate", "lambda_max", ax), RUNS, "lambda_max"),
    "scatter": (lambda t, ax: figures.scatter(t, "lambda_max", "test_accuracy", ax), RUNS, "status"),
    "slope_by_group": (figures.slope_by_group, RUNS, "seed"),
    "dot_plot": (lambda t, ax: figures.dot_plot(t, "lambda_max", ax, row="how", by="learning_rate"), RUNS, "how"),
    "trajectories": (lambda t, ax: figures.trajectories(t, "lambda_max", ax, theory="2/eta"), TRACKED, "run_id"),
    "quadrant_plot": (figures.quadrant_plot, DEVIATIONS, "intervention"),
    "spectral_density": (lambda t, ax: figures.spectral_density(t, ax, outliers=[4.0]), DENSITY, "probe"),
    "landscape_lines": (figures.landscape_lines, LANDSCAPE, "loss"),
    "landscape_slices": (figures.landscape_slices, LANDSCAPE, "direction"),
    "landscape_contours": (figures.landscape_contours, LANDSCAPE, "step_1"),
    "landscape_steps": (figures.landscape_steps, LANDSCAPE, "path"),
    "forest_plot": (lambda t, ax: figures.forest_plot(t, ax, label="τ"), ESTIMATES, None),
    "verdict_grid": (lambda t, ax: figures.verdict_grid(t, ax, ["small"]), VERDICTS, None),
    "verdict_intervals": (figures.verdict_intervals, INTERVALS, "threshold"),
    "verdict_dots": (lambda t, ax: figures.verdict_dots(t, ax, by="chapter"), VERDICTS, "verdict"),
    "contributions": (lambda t, ax: figures.contributions(t, ax, total="all", label="x"), PARTS, "part"),
    "ratio_plot": (lambda t, ax: figures.ratio_plot(t, ax, reference="ours", label="Time"), NUMBERS, None),
    "curvature_matrix": (lambda t, ax: figures.curvature_matrix(t.to_numpy()[:, : len(t)], ax), NUMBERS, None),
    "image": (lambda t, ax: figures.image(t.to_numpy(), ax, "title"), NUMBERS, None),
    "image_direction": (lambda t, ax: figures.image_direction(-t.to_numpy(), ax), NUMBERS, None),
    "class_probabilities": (lambda t, ax: figures.class_probabilities({"a": t["low"]}, ax), NUMBERS, None),
}
TABLES = [kind for kind in KINDS if kind not in ("image", "image_direction", "class_probabilities")]


@pytest.mark.parametrize(("draw", "table", "_"), KINDS.values(), ids=KINDS)
def test_same_table_gives_same_bytes(draw, table, _):
    def svg() -> bytes:
        figure, ax = plt.subplots()
        draw(table, ax)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert svg() == svg()
    assert b"<text" in svg() or draw is KINDS["image_direction"][0], "text is text, not paths"


@pytest.mark.parametrize(("draw", "table", "_"), KINDS.values(), ids=KINDS)
def test_lines_and_marks_are_opaque(draw, table, _):
    """Half of a legible colour is none; what stands behind others is fainter by its colour."""
    _, ax = plt.subplots()
    draw(table, ax)
    parts = [part for axes in (ax, *ax.child_axes) for part in (*axes.lines, *axes.texts)]
    assert {part.get_alpha() for part in parts} <= {None, 1.0}


@pytest.mark.parametrize("kind", TABLES)
def test_empty_table_gives_placeholder(kind, ax):
    draw, table, _ = KINDS[kind]
    draw(table.iloc[:0], ax)
    assert ax.texts[0].get_text().startswith("nothing to draw")
    assert not ax.lines


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][2]])
def test_missing_column_is_named(kind, ax):
    draw, table, column = KINDS[kind]
    with pytest.raises(FlatlibError, match=f"no column {column}"):
        draw(table.drop(columns=column), ax)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "seed" in KINDS[kind][1]])
def test_one_seed_is_enough(kind, ax):
    draw, table, _ = KINDS[kind]
    draw(table.query("seed == 0"), ax)
    ax.figure.canvas.draw()
    assert not ax.spines["top"].get_visible()
    assert not any(bar.has_xerr or bar.has_yerr for bar in ax.containers)


@pytest.mark.parametrize("kind", ["mean_curves", "scatter", "dot_plot", "trajectories"])
def test_negative_value_needs_linear_axis(kind, ax):
    draw, table, _ = KINDS[kind]
    axis = "yscale" if kind in ("mean_curves", "trajectories") else "xscale"
    draw(table, ax)
    assert plt.getp(ax, axis) == "log"
    other = plt.subplots()[1]
    draw(table.assign(lambda_max=table["lambda_max"].where(table.index > 0, -1.0)), other)
    assert plt.getp(other, axis) == "linear"
    assert -1.0 in np.concatenate([line.get_xydata().ravel() for line in other.lines])


@pytest.mark.parametrize("kind", ["mean_curves", "scatter", "dot_plot"])
def test_diverged_runs_are_not_drawn(kind, ax):
    KINDS[kind][0](RUNS.assign(status="diverged"), ax)
    assert ax.texts[0].get_text() == "nothing to draw: every run diverged"


def test_unnamed_column_is_an_error(ax):
    with pytest.raises(FlatlibError, match=r"figures\.axes\.COLUMNS"):
        figures.scatter(RUNS.assign(speed=1.0), "speed", "test_accuracy", ax)


def test_style_works_without_notebooks(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    figures.use_style()
    assert plt.rcParams["svg.fonttype"] == "none"
