"""A figure with a slider: the groups of each frame, its state without scripts, and its text for screen readers."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from flatlib.errors import FlatlibError
from flatlib.figures import Frames, sharpening
from flatlib.figures.slider import from_frame, in_frame

pytestmark = pytest.mark.usefixtures("style")
MOMENTS = [0, 10, 20, 30]


def track() -> pd.DataFrame:
    return pd.DataFrame({"update": MOMENTS, "lambda_max": [1.0, 5.0, 12.0, 10.0]})


def losses() -> pd.DataFrame:
    return pd.DataFrame({"update": range(31), "train_loss": np.geomspace(2, 0.1, 31)})


def spectra() -> pd.DataFrame:
    frames = [pd.DataFrame({"update": t, "node": [-1.0, 0.0, 1.0 + t], "weight": [0.01, 0.9, 0.09]}) for t in MOMENTS]
    return pd.concat(frames)


def frames(**changes) -> Frames:
    about = {
        "figure": sharpening(track(), losses(), spectra(), 0.2),
        "captions": [f"update {t}" for t in MOMENTS],
        "name": "rise",
        "slider": "Training",
        "alt": 'A curve that "rises" & falls.',
    }
    return Frames(**about | changes)


class Page(HTMLParser):
    """The elements of a page with their attributes, and what is inside `output`."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.said, self._open = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = tag

    def handle_data(self, data):
        self.said += data if self._open == "output" else ""

    def handle_endtag(self, tag):
        self._open = ""

    def one(self, tag: str) -> dict:
        (found,) = [attributes for name, attributes in self.elements if name == tag]
        return found

    def marked(self, name: str) -> list[tuple[int, bool]]:
        """Frame of each marked group, and whether it is hidden."""
        groups = [attributes for _, attributes in self.elements if name in attributes]
        return [(int(group[name]), "none" in group.get("style", "")) for group in groups]


def test_frames_have_groups_and_last_is_shown():
    page = Page(frames().html())
    now = page.marked("data-now")
    assert {frame for frame, _ in now} == {0, 1, 2, 3}
    assert len(now) == 4 * 4  # two dots, the stems and their tip
    assert all(hidden == (frame < 3) for frame, hidden in now)
    assert sorted(page.marked("data-since")) == [(frame, False) for frame in (1, 2, 3) for _ in range(2)]


def test_slider_is_labelled_and_hidden_without_scripts():
    page = Page(frames().html())
    slider, label = page.one("input"), page.one("label")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "3", "3")
    assert slider["id"] == label["for"] == "rise-slider"
    assert page.said == "update 30"
    (controls,) = [a for _, a in page.elements if a.get("class") == "frames-controls"]
    assert controls["style"] == "visibility: hidden"  # takes its room from the start: nothing shifts


def test_texts_are_escaped():
    page = Page(frames(captions=["<", "&", '"', "'"]).html())
    assert page.one("svg")["role"] == "img"
    assert page.one("svg")["aria-label"] == 'A curve that "rises" & falls.'
    (figure,) = [a for _, a in page.elements if a.get("class") == "frames"]
    assert figure["data-captions"] == '["<", "&", "\\"", "\'"]'
    assert page.said == "'"


def test_same_run_gives_same_element():
    text = frames().html()
    assert text == frames().html()
    assert "<?xml" not in text
    assert "<!DOCTYPE" not in text
    bundle = frames()._repr_mimebundle_()
    assert bundle == {"text/html": text, "text/plain": 'A curve that "rises" & falls.'}


def test_loss_pieces_join():
    figure = sharpening(track(), losses(), spectra(), 0.2)
    pieces = [line for line in figure.axes[1].lines if str(line.get_gid()).startswith("since")]
    assert [line.get_xdata().tolist() for line in pieces] == [[*range(t, t + 11)] for t in MOMENTS[:-1]]
    assert np.concatenate([line.get_ydata() for line in pieces]).min() == pytest.approx(0.1)
    assert figure.axes[1].get_yscale() == "log"


def test_edge_is_in_every_frame():
    figure = sharpening(track(), losses(), spectra(), 0.2)
    (flat,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    (upright,) = [line for line in figure.axes[2].lines if line.get_linestyle() == "--"]
    assert set(flat.get_ydata()) == set(upright.get_xdata()) == {10.0}
    assert flat.get_gid() is upright.get_gid() is None
    assert figure.axes[0].get_ylim()[1] > 12


def test_stems_reach_their_weights():
    figure = sharpening(track(), losses(), spectra(), 0.2)
    stems, tip = [line for line in figure.axes[2].lines if line.get_gid() == "now-2"]
    x, y = stems.get_data()
    assert x.reshape(-1, 3)[:, 0].tolist() == x.reshape(-1, 3)[:, 1].tolist() == [-1.0, 0.0, 21.0]
    assert y.reshape(-1, 3)[:, 1].tolist() == [0.01, 0.9, 0.09]
    assert np.isnan(x.reshape(-1, 3)[:, 2]).all()
    assert tip.get_xydata().tolist() == [[21.0, 0.09]]


def test_bad_input_is_refused():
    with pytest.raises(FlatlibError, match="no column lambda_max"):
        sharpening(track().drop(columns="lambda_max"), losses(), spectra(), 0.2)
    with pytest.raises(FlatlibError, match="needs a loss and a spectrum"):
        sharpening(track(), losses(), spectra().query("update < 30"), 0.2)
    with pytest.raises(FlatlibError, match="2 captions for the marked frames"):
        frames(captions=["a", "b"]).html()
    with pytest.raises(FlatlibError, match=re.escape("marked frames []")):
        frames(figure=Figure()).html()


def test_artists_are_marked_by_frame():
    figure = Figure()
    ax = figure.subplots()
    in_frame(ax.plot([0, 1])[0], 0)
    from_frame(ax.plot([1, 0])[0], 1)
    page = Page(Frames(figure, ["first", "second"], "x", "x", "x").html())
    assert page.marked("data-now") == [(0, True)]
    assert page.marked("data-since") == [(1, False)]
