"""A figure with a slider: the groups of each frame, its state without scripts, and its text for screen readers."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from flatlib.errors import FlatlibError
from flatlib.figures import Frames, sharpening

pytestmark = pytest.mark.usefixtures("style")
MOMENTS = [0, 10, 20, 30]
TRACK = pd.DataFrame({"update": MOMENTS, "lambda_max": [1.0, 5.0, 12.0, 10.0]})
LOSSES = pd.DataFrame({"update": range(31), "train_loss": np.geomspace(2, 0.1, 31)})
SPECTRA = pd.concat(
    [pd.DataFrame({"update": t, "node": [-1.0, 0.0, 1.0 + t], "weight": [0.01, 0.9, 0.09]}) for t in MOMENTS]
)
ALT = 'A curve that "rises" & falls.'


def frames(captions=("0", "10", "20", "30"), figure=None) -> Frames:
    return Frames(figure or sharpening(TRACK, LOSSES, SPECTRA, 0.2), captions, "rise", "Training", ALT)


def marked(text: str, kind: str) -> list[tuple[int, bool]]:
    """Frame of each group, and whether it is hidden."""
    groups = re.findall(rf'<g data-{kind}="(\d+)"( style="display: none")?', text)
    return [(int(frame), bool(hidden)) for frame, hidden in groups]


def attributes(text: str, tag: str) -> dict[str, str]:
    return {k: html.unescape(v) for k, v in re.findall(r'([\w-]+)="([^"]*)"', re.search(f"<{tag} [^>]*>", text)[0])}


def test_last_frame_is_shown():
    text = frames().html()
    now = marked(text, "now")
    assert {frame for frame, _ in now} == {0, 1, 2, 3}
    assert len(now) == 4 * 4  # two dots, the stems and their tip
    assert all(hidden == (frame < 3) for frame, hidden in now)
    assert sorted(marked(text, "since")) == [(frame, False) for frame in (1, 2, 3) for _ in range(2)]


def test_slider_is_labelled():
    text = frames().html()
    slider = attributes(text, "input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "3", "3")
    assert slider["id"] == attributes(text, "label")["for"] == "rise-slider"
    assert '<div class="frames-controls" style="visibility: hidden">' in text  # takes its room: nothing shifts


def test_texts_are_escaped():
    text = frames(captions=["<", "&", '"', "'"]).html()
    assert (attributes(text, "svg")["role"], attributes(text, "svg")["aria-label"]) == ("img", ALT)
    assert json.loads(attributes(text, 'div class="frames"')["data-captions"]) == ["<", "&", '"', "'"]
    assert html.unescape(re.search(r"<output[^>]*>(.*)</output>", text)[1]) == "'"


def test_same_run_gives_same_element():
    text = frames().html()
    again = frames()._repr_mimebundle_()
    assert again["text/html"] == text
    assert again["text/plain"].startswith(f"{ALT}\nFigure of 3 axes\n"), "its data, for readers without the drawing"
    assert not {"<?xml", "<!DOCTYPE"} & set(text.split())


def test_loss_pieces_join():
    ax = sharpening(TRACK, LOSSES, SPECTRA, 0.2).axes[1]
    pieces = [line for line in ax.lines if str(line.get_gid()).startswith("since")]
    assert [line.get_xdata().tolist() for line in pieces] == [[*range(t, t + 11)] for t in MOMENTS[:-1]]
    assert np.concatenate([line.get_ydata() for line in pieces]).min() == pytest.approx(0.1)
    assert ax.get_yscale() == "log"


def test_edge_is_in_every_frame():
    top, _, bottom = sharpening(TRACK, LOSSES, SPECTRA, 0.2).axes
    (flat,), (upright,) = ([line for line in ax.lines if line.get_linestyle() == "--"] for ax in (top, bottom))
    assert set(flat.get_ydata()) == set(upright.get_xdata()) == {10.0}
    assert flat.get_gid() is upright.get_gid() is None
    assert top.get_ylim()[1] > 12


def test_stems_reach_their_weights():
    ax = sharpening(TRACK, LOSSES, SPECTRA, 0.2).axes[2]
    stems, tip = [line for line in ax.lines if line.get_gid() == "now-2"]
    x, y = (values.reshape(-1, 3) for values in stems.get_data())
    assert x[:, 0].tolist() == x[:, 1].tolist() == [-1.0, 0.0, 21.0]
    assert y[:, 1].tolist() == [0.01, 0.9, 0.09]
    assert np.isnan(x[:, 2]).all()
    assert tip.get_xydata().tolist() == [[21.0, 0.09]]


def test_bad_input_is_refused():
    with pytest.raises(FlatlibError, match="no column lambda_max"):
        sharpening(TRACK.drop(columns="lambda_max"), LOSSES, SPECTRA, 0.2)
    with pytest.raises(FlatlibError, match="needs a loss and a spectrum"):
        sharpening(TRACK, LOSSES, SPECTRA.query("update < 30"), 0.2)
    with pytest.raises(FlatlibError, match="2 captions for the marked frames"):
        frames(captions=["a", "b"]).html()
    with pytest.raises(FlatlibError, match=re.escape("marked frames []")):
        frames(figure=Figure()).html()
