"""Chapters at parameters that leave a figure or a prediction with nothing to show: a page comes out all the same."""

import pytest
from chapter_pages import CHAPTERS, open_page, quick

from flatlib.book.chapter import Chapter
from flatlib.claims import adam_vs_sgd
from flatlib.errors import FlatlibError

ODD = {  # beside one value of every list, for every chapter
    "01 one batch size": ("01_lr_batch", {"batch_sizes": [50]}),
    "01 some diverge": ("01_lr_batch", {"learning_rates": [0.1, 1e20]}),
    "01 all capped": ("01_lr_batch", {"max_epochs": 1}),
    "02 one ratio": ("02_linear_scaling", {"alphas": [50.0]}),
    "02 one batch size": ("02_linear_scaling", {"batch_sizes": [10]}),
    "02 some diverge": ("02_linear_scaling", {"alphas": [50.0, 1e-19]}),
    "03 no radius": ("03_sam", {"rhos": [0.0]}),
    "03 no plain descent": ("03_sam", {"rhos": [0.1]}),
    "03 one batch size": ("03_sam", {"batch_sizes": [20]}),
    "03 one diverges": ("03_sam", {"learning_rates": [0.4, 1e20], "rhos": [0.0, 0.1]}),
    "03 all capped": ("03_sam", {"max_epochs": 1}),
    "04 no dropout": ("04_dropout", {"rates": [0.0]}),
    "04 nothing excessive": ("04_dropout", {"rates": [0.0, 0.2]}),
    "04 one diverges": ("04_dropout", {"learning_rates": [0.2, 1e20]}),
    "05 one batch size": ("05_batch_norm", {"batch_sizes": [20]}),
    "05 one diverges": ("05_batch_norm", {"batch_sizes": [20], "learning_rates": [0.2, 1e20]}),
    "05 all capped": ("05_batch_norm", {"batch_sizes": [20], "max_epochs": 1}),
    "06 no weight decay": ("06_weight_decay", {"weight_decays": [0.0]}),
    "06 one weight decay": ("06_weight_decay", {"weight_decays": [0.03]}),
    "06 one diverges": ("06_weight_decay", {"weight_decays": [0.0, 1e20]}),
    "06 two of everything": ("06_weight_decay", {"inputs": ["raw", "standardized"], "epochs": [1, 2]}),
    "06 two networks": ("06_weight_decay", {"models": ["softmax_regression", "mlp"]}),
    "07 no tuning": ("07_adam_vs_sgd", {"tuning_seeds": []}),
    "07 all of SGD diverges": ("07_adam_vs_sgd", {"sgd_rates": [1e20], "tuning_seeds": []}),
    "07 the six are capped": ("07_adam_vs_sgd", {"epochs": [4, 1]}),
    "08 no widths": ("08_progressive_sharpening", {"widths": []}),
    "08 one diverges": ("08_progressive_sharpening", {"learning_rates": [0.1, 1e20]}),
    "08 capped at once": ("08_progressive_sharpening", {"max_updates": 1}),
    "09 one smoothing": ("09_label_smoothing", {"smoothings": [0.5]}),
    "09 one diverges": ("09_label_smoothing", {"learning_rates": [0.1, 1e20]}),
    "09 one update": ("09_label_smoothing", {"max_updates": 1}),
    "10 not the coded loss": ("10_minimum_sharpness", {"coded": []}),
    "10 all capped": ("10_minimum_sharpness", {"max_epochs": 1}),
    "11 no regulariser": ("11_regularisers", {"smoothings": [], "augmentations": [], "mixups": [], "rhos": []}),
    "11 one regulariser": ("11_regularisers", {"smoothings": [], "augmentations": [], "mixups": []}),
    "11 some diverge": ("11_regularisers", {"rhos": [0.2, 1e20]}),
}
SHORTER = {  # nothing here needs to be trained well
    "01_lr_batch": {"train_size": 100, "width": 0.05, "batch_sizes": [10, 50], "max_epochs": 12},
    "08_progressive_sharpening": {"train_size": 100, "width": 0.05, "widths": [0.1], "max_updates": 12, "depth": 1},
    "10_minimum_sharpness": {"max_epochs": 20},
}


PAIRED = ("models", "widths", "train_sizes", "epochs", "decays")  # of chapter 7: an item for each comparison
ONE_OF_EVERYTHING = {f"{name} one of everything": (name, None) for name in CHAPTERS}


def first_of_each_list(chapter: Chapter) -> dict:
    """Return the list parameters of a chapter with their first value only."""
    lists = {name: value for name, value in vars(chapter.parameters).items() if isinstance(value, list)}
    return {name: value[:1] for name, value in lists.items() if name not in PAIRED}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Return a record folder for all: what two cases have in common is trained once."""
    return str(tmp_path_factory.mktemp("records"))


@pytest.mark.parametrize(("name", "values"), (ODD | ONE_OF_EVERYTHING).values(), ids=ODD | ONE_OF_EVERYTHING)
def test_odd_parameters_still_make_a_page(monkeypatch, records, name, values):
    values = SHORTER.get(name, {}) | (first_of_each_list(quick(name)) if values is None else values)
    page = open_page(monkeypatch, quick(name, records=records, **values))
    judged = page["verdicts"].query("scale == 'smoke'")
    assert len(judged) == len(page["chapter"].claim.predictions)
    assert set(judged["verdict"]) == {"inconclusive"}


def test_a_diverged_learning_rate_is_not_chosen(monkeypatch, records):
    page = open_page(monkeypatch, quick("07_adam_vs_sgd", records=records, sgd_rates=[0.03, 1e20]))
    shown = adam_vs_sgd.tuning_table(page["tuning"]).query("method == 'SGD'")
    assert shown["validation accuracy"].str.contains("diverged").tolist() == [False, True]
    assert shown["chosen"].tolist() == ["yes", ""]


REFUSED = {
    "nothing is tracked": ("02_linear_scaling", {"tracked_alpha": 7.0}, "no run was tracked"),
    "nothing to choose from": ("07_adam_vs_sgd", {"sgd_rates": [1e20]}, "SGD: no learning rate to choose"),
    "nothing to run": ("04_dropout", {"rates": []}, "dropout: the list of values is empty"),
    "all diverge": ("03_sam", {"learning_rates": [1e20]}, "runs diverged: there is nothing to show"),
}


@pytest.mark.parametrize(("name", "values", "message"), REFUSED.values(), ids=REFUSED)
def test_parameters_without_a_page_are_one_line(monkeypatch, records, name, values, message):
    with pytest.raises(FlatlibError, match=message) as refused:
        open_page(monkeypatch, quick(name, records=records, **values))
    assert "\n" not in str(refused.value)
