"""What a chapter asks for, without training: recorded runs are seen, and what hangs on missing ones is told apart."""

import pytest
from chapter_pages import ROOT

from flatlib.book.chapter import ANSWER, Chapter
from flatlib.book.dry_run import asked
from flatlib.book.execute import settings
from flatlib.errors import FlatlibError
from flatlib.runs import records

TUNED = "07_adam_vs_sgd"


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("something was trained")

    monkeypatch.setattr("flatlib.runs.sweep.train_missing", refuse)


@pytest.fixture
def smoke(tmp_path):
    """What a chapter asks for at the preset `smoke`, with new records in a folder of the test."""

    def of(chapter: str, **given):
        return asked(ROOT, chapter, settings(ROOT, chapter, "smoke", {"records": str(tmp_path)} | given))

    return of


def record(path, configs, line, **measures):
    for number, config in enumerate(configs):
        records.append(path, line(config, validation_accuracy=number / 100, **measures))


def test_a_published_page_misses_nothing():
    found = asked(ROOT, "01_lr_batch", settings(ROOT, "01_lr_batch", "small", {}))
    assert len(found.configs) == len(records.read(ROOT / "book" / "records" / "01_lr_batch" / "small.jsonl"))
    assert found.missing == {}
    assert found.settled == len(found.calls) == 1


def test_runs_in_the_folder_of_records_are_not_missing(smoke, tmp_path, line):
    before = smoke("01_lr_batch", seeds=[0, 1])
    done = list(before.configs.values())[:3]
    record(tmp_path / "01_lr_batch" / "smoke.jsonl", done, line)
    after = smoke("01_lr_batch", seeds=[0, 1])
    assert after.paths[-1] == tmp_path / "01_lr_batch" / "smoke.jsonl"
    assert set(before.missing) - set(after.missing) == {config.run_id for config in done}
    assert after.configs == before.configs
    assert before.chosen_later == after.chosen_later == {}


def test_what_missing_runs_choose_is_told_apart(smoke):
    found = smoke(TUNED, sgd_rates=[0.03, 0.1])
    assert (len(found.calls), found.settled) == (2, 1)
    assert found.chosen_later
    assert set(found.chosen_later) == set(found.calls[1].missing)


def test_what_recorded_runs_have_chosen_is_settled(smoke, tmp_path, line):
    first = smoke(TUNED, sgd_rates=[0.03, 0.1]).calls[0]
    record(tmp_path / TUNED / "smoke.jsonl", first.configs[::-1], line)
    found = smoke(TUNED, sgd_rates=[0.03, 0.1])
    assert (found.settled, found.chosen_later) == (2, {})
    sgd = [config for config in found.missing.values() if config.optimizer == "heavy_ball" and config.stop == "epochs"]
    assert {config.learning_rate for config in sgd} == {0.03}, "the best of the recorded runs"


def test_a_call_that_hangs_on_nothing_is_settled(smoke):
    found = smoke("06_weight_decay")
    assert len(found.calls) == 2
    assert (found.settled, found.chosen_later) == (2, {})


def test_the_next_chapter_trains_again(smoke):
    smoke("01_lr_batch")
    assert ANSWER.get() is None


def test_settings_that_do_not_fit_are_one_line_with_the_chapter(smoke):
    with pytest.raises(FlatlibError, match=r"^01_lr_batch: batch_size: 500 is more than the 100 training images$"):
        smoke("01_lr_batch", train_size=100, batch_sizes=[20, 500])
    assert ANSWER.get() is None


def test_a_cell_that_fails_is_one_line_with_the_chapter(smoke, monkeypatch):
    monkeypatch.setattr(Chapter, "__init__", lambda *arguments: 1 / 0)
    with pytest.raises(FlatlibError, match=r"^01_lr_batch: a cell failed: ZeroDivisionError: division by zero$"):
        smoke("01_lr_batch")
