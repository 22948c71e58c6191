"""Every chapter rerun at the smallest scale with `flatlib run`, and asked for what it computed."""

import contextlib
import functools
import io
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import nbformat
import pytest
from chapter_pages import CHAPTERS, PRESETS, QUICK, ROOT, open_page, smoke
from notebook_text import code, prose

from flatlib import stats
from flatlib.book.chapter import Chapter
from flatlib.book.execute import glued
from flatlib.book.parameters import defaults
from flatlib.claims import progressive_sharpening as ps
from flatlib.cli import main
from flatlib.errors import FlatlibError
from flatlib.runs import records

# Runs that each page asks for, call by call: the settings of `chapter_pages.smoke`, times their seeds.
CALLS = {
    "01_lr_batch": [2 * 2 * 2],  # batch sizes, learning rates
    "02_linear_scaling": [2 * 2 * 2],  # ratios, batch sizes
    "03_sam": [2 * 2 * 2],  # batch sizes, radii
    "04_dropout": [3 * 2],  # rates
    "05_batch_norm": [2 * 2 + 2],  # networks, batch sizes; two more modes at the small batch
    "06_weight_decay": [2 * 2, 2],  # decays; then the spectra of one seed
    "07_adam_vs_sgd": [2 + 2 * 1, (3 + 6) * 2],  # rates to choose from, one tuning seed; then methods and optimizers
    "08_progressive_sharpening": [2 * 2 + 2 + 2],  # rates; a further width; the linear model
    "09_label_smoothing": [2 * 2],  # smoothings
    "10_minimum_sharpness": [2 * 6 + 2],  # six optimizers alone and inside SAM; one of them on the other loss
    "11_regularisers": [5 * 2],  # none and four regularisers
}
# Of the recorded configurations, those whose endings the page counts; all of them where nothing is said.
COUNTED = {
    "05_batch_norm": lambda config: config["batch_norm"] == "train",
    "06_weight_decay": lambda config: config["measures"] != ["density"],
    "07_adam_vs_sgd": lambda config: config["validation_size"] is None,
    "10_minimum_sharpness": lambda config: config["loss"] == "cross_entropy",
}


def flatlib_run(*arguments) -> SimpleNamespace:
    """`flatlib run ...`: exit code, what it printed, what it said."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["run", *map(str, arguments)])
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def given(chapter) -> list:
    return [part for name, value in QUICK[chapter].items() for part in ("-p", name, str(value))]


def state_of_the_checkout() -> tuple:
    git = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "book/claims", "book/presets"]
    status = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    return status, [path.read_bytes() for path in CHAPTERS.values()]


@pytest.fixture(scope="session")
def rerun(tmp_path_factory):
    """A chapter's rerun, by the chapter's name: done when it is first asked for, in folders of its own."""

    @functools.cache
    def done(chapter: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp(chapter)
        places = ["--records", folder / "records", "--output", folder / "pages"]
        before = state_of_the_checkout()
        command = flatlib_run(chapter, "--preset", "smoke", "--device", "cpu", "--workers", 1, *places, *given(chapter))
        assert command.status == 0, command.err
        record = folder / "records" / chapter / "smoke.jsonl"
        page = nbformat.read(folder / "pages" / f"{chapter}.ipynb", 4)
        untouched = state_of_the_checkout() == before
        return SimpleNamespace(
            command=command, untouched=untouched, record=record, lines=records.read(record), page=page
        )

    return done


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_ends_with_its_verdict(rerun, chapter):
    command = rerun(chapter).command
    assert command.out.count("\n") == 1
    assert command.out.startswith(f"{chapter}: inconclusive"), "two seeds or one decide nothing"
    for runs in CALLS[chapter]:
        assert f" {runs} of {runs} runs done, 0 left" in command.err


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_rerun_leaves_the_checkout_as_it_was(rerun, chapter):
    done = rerun(chapter)
    assert done.untouched
    for committed in (ROOT / "book" / "records" / chapter).glob("*.jsonl"):
        assert not set(done.lines) & set(records.read(committed))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_run_is_recorded_and_accounted_for(rerun, chapter):
    done = rerun(chapter)
    assert len(done.lines) == sum(CALLS[chapter])
    counts = COUNTED.get(chapter, lambda config: True)
    endings = Counter(line["status"] for line in done.lines.values() if counts(line["config"]))
    told = {name: int(glued(done.page, f"n_{name}")) for name in ("runs", "reached", "capped", "diverged")}
    assert told == {"runs": endings.total()} | {name: endings[name] for name in ("reached", "capped", "diverged")}
    assert endings["reached"], "nothing to show"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_figure_is_drawn_and_every_word_of_prose_is_glued(rerun, chapter):
    page = rerun(chapter).page
    for cell in code(page):
        if "figure" in cell.metadata.get("mystnb", {}):
            assert any("image/svg+xml" in output.get("data", {}) for output in cell.outputs), cell.source
    for name in re.findall(r"\{glue:text\}`([^`]+)`", prose(page)):
        assert glued(page, name).strip() not in ("", "nan")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_second_run_trains_nothing(monkeypatch, rerun, chapter):
    record = rerun(chapter).record
    before, calls, run = (record.read_bytes(), record.stat().st_mtime_ns), [], Chapter.run
    places = {"records": str(record.parent.parent), "device": "cpu", "workers": 1}

    def counted(self, configs):
        calls.append(run(self, configs))
        return calls[-1]

    monkeypatch.setattr("flatlib.runs.sweep.train", None)
    monkeypatch.setattr(Chapter, "run", counted)
    open_page(monkeypatch, chapter, smoke(chapter) | places)
    assert [len(runs) for runs in calls] == CALLS[chapter]
    assert (record.read_bytes(), record.stat().st_mtime_ns) == before


def test_sharpness_falls_with_the_learning_rate_at_the_small_batch(rerun):
    runs = records.table(rerun("01_lr_batch").lines.values()).query("batch_size == 20 and status == 'reached'")
    assert (stats.seed_slopes(runs, "learning_rate", "lambda_max", logy=True) < -0.2).all()
    assert runs["lambda_max_converged"].astype(bool).all()


def test_sharpness_and_jacobian_rise_in_the_network_and_not_sharpness_in_the_linear_model(rerun):
    runs = records.table(rerun("08_progressive_sharpening").lines.values())
    assert (ps.mean_over_runs(ps.MAIN, ps.rise, "")(runs) > 1).all()
    assert (ps.mean_over_runs(ps.MAIN, ps.jacobian_growth, "")(runs) > 0).all()
    assert (ps.mean_over_runs(ps.LINEAR_MODEL, ps.rise, "")(runs) < 0.25).all()


def test_papermill_alone_computes_the_same(tmp_path, rerun):
    name = "03_sam"
    scale = PRESETS / "smoke" / f"{name}.yaml"
    command = [sys.executable, "-m", "papermill", CHAPTERS[name], tmp_path / "plain.ipynb", "-f", scale]
    places = ["-p", "records", tmp_path / "plain", "-p", "device", "cpu", "-p", "workers", 1]
    done = subprocess.run(list(map(str, [*command, *places, *given(name)])), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    plain = records.read(tmp_path / "plain" / name / "smoke.jsonl")
    assert {run_id: line["measures"] for run_id, line in plain.items()} == {
        run_id: line["measures"] for run_id, line in rerun(name).lines.items()
    }


def test_a_misspelt_parameter_is_found_without_the_command_line():
    name = "01_lr_batch"
    with pytest.raises(FlatlibError, match=r"unknown parameter 'sedes'; allowed: .*seeds"):
        Chapter(name, defaults(CHAPTERS[name]) | {"sedes": [1]})


def test_committed_records_are_not_written_by_a_rerun():
    name = "01_lr_batch"
    with pytest.raises(FlatlibError, match="only flatlib refresh"):
        _ = Chapter(name, defaults(CHAPTERS[name]) | {"records": str(ROOT / "book" / "records")}).record
