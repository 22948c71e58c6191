"""Every kind of figure: the same bytes for the same data, a placeholder for no data, and errors that name a column."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from flatlib import figures
from flatlib.errors import FlatlibError

pytestmark = pytest.mark.usefixtures("style")


def runs(seeds: int = 3) -> pd.DataFrame:
    rows = [
        (seed, batch, rate, name, "reached", batch / rate * (1 + 0.1 * seed), 0.8 + 0.01 * seed)
        for seed in range(seeds)
        for batch, name in ((32, "a"), (512, "b"))
        for rate in (0.01, 0.1, 1.0)
    ]
    columns = ["seed", "batch_size", "learning_rate", "how", "status", "lambda_max", "test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def tracked(seeds: int = 2) -> pd.DataFrame:
    rows = [(f"{rate}-{s}", rate, t, 1.0 + t + s) for rate in (0.05, 0.1) for s in range(seeds) for t in (0, 10, 20)]
    return pd.DataFrame(rows, columns=["run_id", "learning_rate", "update", "lambda_max"])


def probes(seeds: int = 2) -> pd.DataFrame:
    grid = np.linspace(-1, 5, 7)
    return pd.concat(
        [pd.DataFrame({"probe": s, "eigenvalue": grid, "density": np.exp(-(grid**2))}) for s in range(seeds)]
    )


def landscape() -> pd.DataFrame:
    first, second = (grid.ravel() for grid in np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9), indexing="ij"))
    columns = {"step_1": first, "step_2": second, "path": "p", "step": first, "direction": np.round(second)}
    return pd.DataFrame(columns | {"eigenvalue": 2.0, "curvature": 2.0, "loss": 0.01 + first**2 + second**2}).assign(
        quadratic=lambda table: table["loss"]
    )


def estimates() -> pd.DataFrame:
    return pd.DataFrame({"row": ["A", "B"], "series": "all", "estimate": [0.5, 0.2], "low": 0.1, "high": 0.9})


def verdicts() -> pd.DataFrame:
    return pd.DataFrame({"chapter": ["01_a"], "prediction": "x", "scale": "small", "verdict": "supported"})


def deviations() -> pd.DataFrame:
    return pd.DataFrame({"intervention": ["SAM", "dropout"], "lambda_max": [1.0, -1.0], "test_accuracy": [2.0, -2.0]})


def ratios() -> pd.DataFrame:
    return estimates()[["low", "high"]]


KINDS = {  # how it is drawn, and its table
    "mean_curves": (lambda t, ax: figures.mean_curves(t, "learning_rate", "lambda_max", ax, theory="2/eta"), runs),
    "scatter": (lambda t, ax: figures.scatter(t, "lambda_max", "test_accuracy", ax), runs),
    "slope_by_group": (figures.slope_by_group, runs),
    "dot_plot": (lambda t, ax: figures.dot_plot(t, "lambda_max", ax, row="how", by="learning_rate"), runs),
    "trajectories": (lambda t, ax: figures.trajectories(t, "lambda_max", ax, theory="2/eta"), tracked),
    "quadrant_plot": (figures.quadrant_plot, deviations),
    "spectral_density": (lambda t, ax: figures.spectral_density(t, ax, outliers=[4.0]), probes),
    "landscape_lines": (figures.landscape_lines, landscape),
    "landscape_slices": (figures.landscape_slices, landscape),
    "landscape_contours": (figures.landscape_contours, landscape),
    "landscape_steps": (figures.landscape_steps, landscape),
    "forest_plot": (lambda t, ax: figures.forest_plot(t, ax, label="τ"), estimates),
    "verdict_grid": (lambda t, ax: figures.verdict_grid(t, ax, ["small"]), verdicts),
    "ratio_plot": (lambda t, ax: figures.ratio_plot(t, ax, reference="ours", label="Time"), ratios),
    "curvature_matrix": (lambda t, ax: figures.curvature_matrix(np.ones((len(t), len(t))), ax), verdicts),
    "image": (lambda t, ax: figures.image(t.to_numpy(), ax, "title"), ratios),
    "image_direction": (lambda t, ax: figures.image_direction(-t.to_numpy(), ax), ratios),
    "class_probabilities": (lambda t, ax: figures.class_probabilities({"a": t["low"]}, ax), estimates),
}
NEEDED = {"spectral_density": "probe", "quadrant_plot": "intervention"} | {
    **dict.fromkeys(["mean_curves", "scatter", "slope_by_group", "dot_plot", "trajectories"], "lambda_max"),
    **dict.fromkeys(["landscape_lines", "landscape_slices", "landscape_contours"], "loss"),
    "landscape_steps": "path",
}
PLAIN = ("image", "image_direction", "class_probabilities")  # arrays, which are never empty


@pytest.mark.parametrize("kind", KINDS)
def test_same_table_gives_same_bytes(kind):
    draw, table = KINDS[kind]

    def svg() -> bytes:
        figure, ax = plt.subplots()
        draw(table(), ax)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert svg() == svg()
    assert b"<text" in svg() or kind == "image_direction"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PLAIN])
def test_empty_table_gives_placeholder(kind, ax):
    draw, table = KINDS[kind]
    draw(table().iloc[:0], ax)
    assert ax.texts[0].get_text().startswith("nothing to draw")
    assert not ax.lines


@pytest.mark.parametrize(("kind", "column"), NEEDED.items())
def test_missing_column_is_named(kind, column, ax):
    draw, table = KINDS[kind]
    with pytest.raises(FlatlibError, match=f"no column {column}"):
        draw(table().drop(columns=column), ax)


@pytest.mark.parametrize("kind", [kind for kind, (_, table) in KINDS.items() if table in (runs, tracked, probes)])
def test_one_seed_is_enough(kind, ax):
    draw, table = KINDS[kind]
    draw(table(seeds=1), ax)
    ax.figure.canvas.draw()
    assert not ax.spines["top"].get_visible()
    assert not any(bar.has_xerr or bar.has_yerr for bar in ax.containers)


@pytest.mark.parametrize("kind", ["mean_curves", "scatter", "dot_plot", "trajectories"])
def test_log_axis_is_linear_for_a_negative_value(kind, ax):
    draw, table = KINDS[kind]
    axis = "yscale" if kind in ("mean_curves", "trajectories") else "xscale"
    draw(table(), ax)
    assert plt.getp(ax, axis) == "log"
    draw(
        table().assign(lambda_max=lambda rows: rows["lambda_max"].where(rows.index > 0, -1.0)),
        other := plt.subplots()[1],
    )
    assert plt.getp(other, axis) == "linear"
    drawn = np.concatenate([line.get_xydata().ravel() for line in other.lines])
    assert -1.0 in drawn


@pytest.mark.parametrize("kind", ["mean_curves", "scatter", "dot_plot"])
def test_diverged_runs_are_not_drawn(kind, ax):
    KINDS[kind][0](runs().assign(status="diverged"), ax)
    assert ax.texts[0].get_text() == "nothing to draw: every run diverged"


def test_unnamed_column_says_where_to_name_it(ax):
    with pytest.raises(FlatlibError, match=r"figures\.axes\.COLUMNS"):
        figures.scatter(runs().assign(speed=1.0), "speed", "test_accuracy", ax)
