"""The grid of verdicts: rows under their chapters' headings, in columns that fit a page."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd

from flatlib.figures import verdict_columns, verdict_grid, verdict_grid_size
from flatlib.figures.grid import LETTERS
from flatlib.figures.style import use_style

ROWS = [
    *(
        ("1. A", "x", "small", "supported"),
        ("1. A", "y", "small", "inconclusive"),
        ("1. A", "x", "paper", "contradicted"),
    ),
    *(("2. B", "x", "small", "supported"), ("2. B", "x", "paper", "not tested here")),
]
JUDGED = pd.DataFrame(ROWS, columns=["chapter", "prediction", "scale", "verdict"])
SCALES = ["small", "paper"]


def of(chapter: str, predictions: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"chapter": chapter, "prediction": predictions, "scale": "small", "verdict": "supported"})


def test_marks_stand_at_prediction_and_scale(ax):
    verdict_grid(JUDGED, ax, SCALES)
    places = {text.get_text(): text.get_position() for text in ax.texts[2:]}
    assert list(places) == ["1. A", "2. B", "x", "y"], "headings and rows"
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    (first, second), ((x_paper, y_paper),) = marks["supported"], marks["contradicted"]
    assert first[1] == y_paper < marks["inconclusive"][0][1] == places["y"][1] < second[1] == places["x"][1]
    assert first[0] == second[0] < x_paper == marks["not tested here"][0][0] < places["x"][0]
    assert places["1. A"][1] < first[1] < places["2. B"][1] < second[1]
    assert len({(line.get_marker(), line.get_markerfacecolor()) for line in ax.lines}) == 4, "not by colour alone"


def test_the_marks_are_explained_once(ax):
    verdict_grid(JUDGED, ax, SCALES, key=False)
    assert ax.get_legend() is None
    verdict_grid(JUDGED, plt.subplots()[1], SCALES)
    key = plt.gca().get_legend()
    assert [text.get_text() for text in key.get_texts()] == [line.get_label() for line in ax.lines]


def test_columns_are_whole_chapters_of_like_height():
    judged = pd.concat([of("1", ["a"]), of("2", ["a", "b"]), of("3", ["a", "b", "c", "d"])])
    assert [part["chapter"].unique().tolist() for part in verdict_columns(judged)] == [["1", "2"], ["3"]]
    longer = pd.concat([of("1", ["a " * LETTERS, "b"]), of("2", ["a"]), of("3", ["a", "b"])])
    assert [part["chapter"].unique().tolist() for part in verdict_columns(longer)] == [["1"], ["2", "3"]]
    assert [len(part) for part in verdict_columns(of("1", ["a"]))] == [1]


def test_every_row_has_room():
    judged = of("1. Regularisers", ["a", "softmaxed Jacobian against sharpness (accuracy gap)", "c"])
    with plt.rc_context():
        use_style()
        figure, ax = plt.subplots(figsize=verdict_grid_size([judged]))
        verdict_grid(judged, ax, ["digits", "small", "mnist", "medium", "paper", "paper-mlp"])
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in ax.texts if text.get_rotation() == 0]
        plt.close(figure)
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
