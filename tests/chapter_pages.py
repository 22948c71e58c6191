"""Chapters as programs, for the tests that run them: small parameters, and a page executed in this process."""

import contextlib
import io

import matplotlib.pyplot as plt
import nbformat

from flatlib.book.chapter import Chapter
from flatlib.book.paths import find_root, notebooks
from notebook_text import code

ROOT = find_root()
CHAPTERS = notebooks(ROOT)
PRESETS = ROOT / "book" / "presets"
PAIR = {"seeds": [0, 1]}
QUICK = {  # beside `smoke`: small enough for seconds, large enough for every figure; a chapter need not be here
    "01_lr_batch": {"train_size": 300, "batch_sizes": [20, 200], "learning_rates": [0.1, 0.4]},
    "02_linear_scaling": {"train_size": 100, "width": 0.1, "batch_sizes": [10, 20]},
    "03_sam": {"train_size": 100, "width": 0.1, "batch_sizes": [20, 100], "rhos": [0.0, 0.1]},
    "04_dropout": {"train_size": 100, "width": 0.16, "rates": [0.0, 0.2, 0.5]},
    "05_batch_norm": {"learning_rates": [0.3], "measure_size": 20, "seeds": [0]},
    "06_weight_decay": {"train_size": 100, "epochs": [4], "weight_decays": [0.0, 0.03], "measure_size": 50},
    "07_adam_vs_sgd": {
        **{"train_sizes": [100, 60], "epochs": [4, 1000]},
        **{"adam_rates": [0.02], "validation_size": 50, "measure_size": 50},
    },
    "08_progressive_sharpening": {
        "train_size": 150,
        **{"learning_rates": [0.1, 0.4], "widths": [0.08], "max_updates": 400},
    },
    "09_label_smoothing": {
        "train_size": 100,
        "stop_loss": 2.0,
        "smoothings": [0.0, 0.5],
        "max_updates": 60,
        "track_every": 20,
    },
    "10_minimum_sharpness": {"max_epochs": 120, "seeds": [0]},
    "11_regularisers": {
        **{"train_size": 100, "epochs": 4, "measure_size": 50},
        **{"smoothings": [0.4], "mixups": [1.0], "rhos": [0.2]},
    },
}


def quick(name: str, **given) -> Chapter:
    """Return a chapter at the preset `smoke`, on even less, changed by what is given."""
    return Chapter.at_preset(name, "smoke", PAIR | QUICK.get(name, {}) | {"device": "cpu", "workers": 1} | given)


def given(name: str) -> list[str]:
    """Return the same parameters as options of the command line."""
    return [part for key, value in (PAIR | QUICK.get(name, {})).items() for part in ("-p", key, str(value))]


def open_page(monkeypatch, chapter: Chapter, times: int = 1) -> dict:
    """Execute a notebook's code cells as papermill does, in this process; return the variables they leave."""
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    injected = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in vars(chapter.parameters).items())])
    names: dict = {"In": []}
    with plt.rc_context(), contextlib.redirect_stdout(io.StringIO()):
        for cell in code(nbformat.read(chapter.source, 4)) * times:
            for source in [cell.source, injected] if "parameters" in cell.metadata.get("tags", []) else [cell.source]:
                names["In"].append(source)
                exec(compile(source, chapter.claim.chapter, "exec"), names)
    plt.close("all")
    return names
